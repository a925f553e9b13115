//! The gRPC service: samples of the newest generator, on request.

use dcgan_rpc::pb;
use dcgan_rpc::pb::sampler_server::{Sampler, SamplerServer};
use tonic::{Request, Response, Status};

use crate::newest::Newest;
use crate::picture::{GRID, GridSize, SIDE_MAX};

/// Creates the service.
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
        let size = GridSize {
            rows: side("rows", rows.unwrap_or(GRID.rows))?,
            columns: side("columns", columns.unwrap_or(GRID.columns))?,
        };
        let drawn = self
            .0
            .get()
            .ok_or_else(|| Status::unavailable("there is no generator yet: ask again later"))?;
        let step = drawn.generator.step;
        let generator = drawn.generator;
        let png =
            self.0.in_turn(move |is_wanted| Ok(generator.picture_while(is_wanted, size, seed)));
        let png = png.await?;
        Ok(Response::new(pb::SampleResponse { step, png: png.into() }))
    }
}

/// Checks the number of images in a row or a column.
fn side(name: &str, images: u32) -> Result<u32, Status> {
    match images {
        1..=SIDE_MAX => Ok(images),
        _ => Err(Status::invalid_argument(format!(
            "{name}: expected 1 to {SIDE_MAX}, found {images}"
        ))),
    }
}
