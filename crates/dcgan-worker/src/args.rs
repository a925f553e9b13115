//! The command line.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use clap::{ArgAction, Parser};
use dcgan_core::ids::WorkerId;
use dcgan_model::DeviceChoice;
use dcgan_process::exit::usage;
use dcgan_process::fault::Fault;
use dcgan_process::logging::LogArgs;
use dcgan_process::names;
use dcgan_process::settings::{self, Time};
use dcgan_rpc::net::{Address, CoordinatorAt, ListenAddress, interface_to};
use dcgan_store::address_file::read_address_at;

/// Trains shards of a DCGAN's batch, together with the other workers of a coordinator
#[derive(Debug, Parser)]
#[command(name = "dcgan-worker", version, mut_args = settings::in_plain_words)]
pub struct Args {
    /// Address of the coordinator, as http://HOST:PORT, or the file that has it at the moment, as
    /// file:RUN_DIR/address
    #[arg(long, value_name = "URL", env = "DCGAN_COORDINATOR")]
    pub coordinator: CoordinatorAt,
    /// The name of this worker; a newer process with the same name waits until this one is gone
    /// [default: HOST-PROCESS]
    #[arg(long, value_parser = name, env = "DCGAN_NAME")]
    pub name: Option<String>,
    /// The device that computes: cpu, cuda or cuda:N
    #[arg(long, default_value_t, env = "DCGAN_DEVICE")]
    pub device: DeviceChoice,
    /// The number of shards that are computed at the same time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = settings::whole::<u16>(1..=1024),
        env = "DCGAN_THREADS"
    )]
    pub threads: u16,
    /// The address to listen on for other workers [default: a free port on the interface that
    /// reaches the coordinator]
    #[arg(long, value_name = "ADDR:PORT", env = "DCGAN_LISTEN")]
    pub listen: Option<ListenAddress>,
    /// The address that other workers connect to, as HOST:PORT [default: the one that this worker
    /// listens on]
    #[arg(long, value_name = "HOST:PORT", env = "DCGAN_ADVERTISE")]
    pub advertise: Option<Address>,
    /// Gives up when the coordinator cannot be reached for this long, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "10m", env = "DCGAN_COORDINATOR_TIMEOUT")]
    pub coordinator_timeout: Time,
    /// Allows unencrypted connections to and from other machines
    #[arg(long, action = ArgAction::Set, default_value = "no", env = "DCGAN_INSECURE")]
    pub insecure: bool,
    /// Checks the settings and the device, and ends: `dcgan-coord --local` asks before it starts
    #[arg(long, hide = true)]
    pub(crate) check: bool,
    /// Injects a fault at a point of this program, for tests
    #[arg(long, hide = true, value_name = "POINT=ACTION@N")]
    pub(crate) fault: Option<Fault>,
    /// Ends when standard input closes
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl Args {
    /// Returns the worker's name: the one that was given, or one that no other worker has.
    pub(crate) fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => {
                let host = names::host();
                // A host's name may have characters that a worker's name cannot have.
                let host = host.filter(|host| WorkerId::is_name(host));
                format!("{}-{}", host.as_deref().unwrap_or("worker"), names::process())
            }
        }
    }

    /// Returns the address to listen on.
    ///
    /// # Errors
    /// If the name that was given has no address: an error of usage. If none was given, and the
    /// coordinator is not found (yet): its name does not resolve, or it has written no address.
    pub(crate) fn listen_address(&self) -> anyhow::Result<SocketAddr> {
        match &self.listen {
            Some(address) => address.resolve().context("--listen").map_err(usage),
            None => Ok(SocketAddr::new(self.interface_to_coordinator()?, 0)),
        }
    }

    /// Returns the address that other workers are told, given the one that this worker listens on.
    ///
    /// # Errors
    /// If the worker listens on all interfaces, and the coordinator is not found (yet).
    pub(crate) fn advertised(&self, listening: SocketAddr) -> std::io::Result<Address> {
        match &self.advertise {
            Some(address) => Ok(address.clone()),
            None if listening.ip().is_unspecified() => {
                Ok(SocketAddr::new(self.interface_to_coordinator()?, listening.port()).into())
            }
            None => Ok(listening.into()),
        }
    }

    fn interface_to_coordinator(&self) -> std::io::Result<IpAddr> {
        interface_to(&self.coordinator.find(read_address_at)?.authority())
    }

    /// Checks that no connection leaves this machine, unless `--insecure` is given.
    ///
    /// # Errors
    /// A usage error that names the flag.
    pub(crate) fn check_exposure(&self) -> anyhow::Result<()> {
        // An address that comes from a file is checked when it is connected to.
        if let CoordinatorAt::Address(address) = &self.coordinator {
            address.check(self.insecure).context("--coordinator").map_err(usage)?;
        }
        match &self.listen {
            Some(address) => address.check(self.insecure).context("--listen").map_err(usage),
            None => Ok(()),
        }
    }
}

/// Parses a worker's name.
fn name(text: &str) -> Result<String, String> {
    if WorkerId::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 100 of letters, digits, '-', '_' and '.'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(["dcgan-worker"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn workers_on_one_host_have_different_names() {
        let args = parse("--coordinator http://127.0.0.1:7420").unwrap();
        assert!(WorkerId::is_name(&args.name()));
        assert!(args.name().ends_with(&format!("-{}", names::process())));
        assert!(parse("--coordinator http://127.0.0.1:7420 --name a/b").is_err());
    }

    #[test]
    fn the_advertised_address_can_be_reached() {
        let args = parse("--coordinator http://127.0.0.1:7420").unwrap();
        let listening = args.listen_address().unwrap();
        assert_eq!(listening.to_string(), "127.0.0.1:0");
        let everywhere = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(args.advertised(everywhere).unwrap().authority(), "127.0.0.1:9000");
        let advertised =
            parse("--coordinator http://127.0.0.1:7420 --advertise worker-0.workers:7423").unwrap();
        assert_eq!(advertised.advertised(everywhere).unwrap().authority(), "worker-0.workers:7423");
    }

    #[test]
    fn unencrypted_connections_to_other_machines_need_insecure() {
        let error =
            parse("--coordinator http://10.0.0.1:7420").unwrap().check_exposure().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--coordinator: 10.0.0.1:7420 is reachable from other machines")
        );
        let error = parse("--coordinator http://127.0.0.1:1 --listen 0.0.0.0:1")
            .unwrap()
            .check_exposure()
            .unwrap_err();
        assert!(error.to_string().starts_with("--listen: 0.0.0.0:1 is reachable"), "{error}");
        parse("--coordinator http://10.0.0.1:7420 --listen 0.0.0.0:1 --insecure")
            .unwrap()
            .check_exposure()
            .unwrap();
    }
}
