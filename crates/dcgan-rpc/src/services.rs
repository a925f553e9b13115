//! The services: which program offers which, and for whom.
//!
//! Each service is for one audience, so that a role is a list of services and nothing finer.

use std::fmt;

use crate::pb::{admin_server, collective_server, coordinator_server, feed_server, sampler_server};

/// A gRPC service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The full name, such as `dcgan.v1.Coordinator`.
    pub name: &'static str,
    /// The program that offers it.
    pub program: Program,
    /// The clients that it is for.
    pub role: Role,
}

/// A program that offers services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `dcgan-coord`.
    Coordinator,
    /// `dcgan-worker`.
    Worker,
    /// `dcgan-sampler`.
    Sampler,
}

/// An audience of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The workers of a run.
    Worker,
    /// The samplers that follow a run.
    Sampler,
    /// People, and their tools.
    Person,
}

/// All services. Health checks and reflection are made from this table.
pub const SERVICES: [Service; 5] = [
    service(coordinator_server::SERVICE_NAME, Program::Coordinator, Role::Worker),
    service(feed_server::SERVICE_NAME, Program::Coordinator, Role::Sampler),
    service(admin_server::SERVICE_NAME, Program::Coordinator, Role::Person),
    service(collective_server::SERVICE_NAME, Program::Worker, Role::Worker),
    service(sampler_server::SERVICE_NAME, Program::Sampler, Role::Person),
];

const fn service(name: &'static str, program: Program, role: Role) -> Service {
    Service { name, program, role }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coordinator => "a coordinator",
            Self::Worker => "a worker",
            Self::Sampler => "a sampler",
        })
    }
}

impl Program {
    /// The names of the services that the program offers.
    pub fn services(self) -> impl Iterator<Item = &'static str> {
        SERVICES.into_iter().filter(move |service| service.program == self).map(|one| one.name)
    }
}

impl Role {
    /// The names of the services that a client in this role may call.
    pub fn services(self) -> impl Iterator<Item = &'static str> {
        SERVICES.into_iter().filter(move |service| service.role == self).map(|one| one.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_list_of_services() {
        let services = |role: Role| role.services().collect::<Vec<_>>();
        assert_eq!(services(Role::Worker), ["dcgan.v1.Coordinator", "dcgan.v1.Collective"]);
        assert_eq!(services(Role::Sampler), ["dcgan.v1.Feed"]);
        assert_eq!(services(Role::Person), ["dcgan.v1.Admin", "dcgan.v1.Sampler"]);
    }
}
