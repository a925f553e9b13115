//! Samples over gRPC.

use dcgan_rpc::pb;
use dcgan_rpc::pb::sampler_server::{Sampler, SamplerServer};
use tonic::{Request, Response, Status};

use crate::newest::Newest;
use crate::picture::{GRID, SIDE_MAX};

/// The service.
pub(crate) fn service(newest: Newest) -> SamplerServer<impl Sampler> {
    SamplerServer::new(Service(newest))
}

struct Service(Newest);

#[tonic::async_trait]
impl Sampler for Service {
    async fn sample(
        &self,
        request: Request<pb::SampleRequest>,
    ) -> Result<Response<pb::SampleResponse>, Status> {
        let pb::SampleRequest { seed, rows, columns } = request.into_inner();
        let side = |name: &str, given: Option<u32>, default| match given.unwrap_or(default) {
            side @ 1..=SIDE_MAX => Ok(side),
            found => Err(Status::invalid_argument(format!(
                "{name}: expected 1 to {SIDE_MAX}, found {found}"
            ))),
        };
        let (rows, columns) = (side("rows", rows, GRID.0)?, side("columns", columns, GRID.1)?);
        let drawn = self
            .0
            .get()
            .ok_or_else(|| Status::unavailable("there is no generator yet: ask again later"))?;
        let step = drawn.source.step;
        let png = self.0.picture(drawn.source, rows, columns, seed).await;
        let png = png.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::SampleResponse { step, png: png.into() }))
    }
}
