//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use dcgan_core::ids::WorkerId;
use dcgan_model::DeviceChoice;
use dcgan_process::exit::usage;
use dcgan_process::fault::Fault;
use dcgan_process::logging::LogArgs;
use dcgan_rpc::net::Address;

/// Trains shards of a DCGAN's batch, together with the other workers of a coordinator
#[derive(Debug, Parser)]
#[command(name = "dcgan-worker", version)]
pub struct Args {
    /// Where the coordinator listens, as http://HOST:PORT
    #[arg(long, value_name = "URL", env = "DCGAN_COORDINATOR")]
    pub coordinator: Address,
    /// What this worker is called; a process that takes over a name replaces the one before [default: host-process]
    #[arg(long, value_parser = name, env = "DCGAN_NAME")]
    pub name: Option<String>,
    /// Where tensors live: cpu, cuda or cuda:N
    #[arg(long, default_value_t, env = "DCGAN_DEVICE")]
    pub device: DeviceChoice,
    /// Shards that are computed at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024), env = "DCGAN_THREADS")]
    pub threads: u16,
    /// Where other workers connect [default: a free port on the interface that reaches the coordinator]
    #[arg(long, value_name = "ADDR:PORT", env = "DCGAN_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// The address that other workers are told, as HOST:PORT [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", env = "DCGAN_ADVERTISE")]
    pub advertise: Option<Address>,
    /// Gives up when the coordinator cannot be reached for this long, as in 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, env = "DCGAN_COORDINATOR_TIMEOUT")]
    pub coordinator_timeout: Duration,
    /// Allows connections that leave this machine, although they are not encrypted
    #[arg(long, env = "DCGAN_INSECURE")]
    pub insecure: bool,
    /// Something goes wrong at a point of this program
    #[arg(long, hide = true, value_name = "POINT=ACTION@N")]
    pub(crate) fault: Option<Fault>,
    /// Ends when standard input closes
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl Args {
    /// The worker's name.
    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| {
                std::env::var("HOSTNAME").map_err(|error| std::io::Error::other(error.to_string()))
            });
            let host =
                host.map(|host| host.trim().to_owned()).ok().filter(|host| WorkerId::is_name(host));
            format!("{}-{}", host.as_deref().unwrap_or("worker"), std::process::id())
        })
    }

    /// Where to listen, once the coordinator's name resolves.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn listen_address(&self) -> std::io::Result<SocketAddr> {
        match self.listen {
            Some(address) => Ok(address),
            None => Ok(SocketAddr::new(interface_to(&self.coordinator)?, 0)),
        }
    }

    /// What other workers are told, given where this one listens.
    ///
    /// # Errors
    /// If it listens everywhere and the coordinator's name does not resolve.
    pub(crate) fn advertised(&self, listening: SocketAddr) -> std::io::Result<Address> {
        match &self.advertise {
            Some(address) => Ok(address.clone()),
            None if listening.ip().is_unspecified() => {
                Ok(SocketAddr::new(interface_to(&self.coordinator)?, listening.port()).into())
            }
            None => Ok(listening.into()),
        }
    }

    /// Refuses addresses that leave this machine, unless that is meant.
    ///
    /// # Errors
    /// A mistake of usage.
    pub(crate) fn check_exposure(&self) -> anyhow::Result<()> {
        self.coordinator.check(self.insecure).context("--coordinator").map_err(usage)?;
        match self.listen {
            Some(address) => {
                Address::from(address).check(self.insecure).context("--listen").map_err(usage)
            }
            None => Ok(()),
        }
    }
}

/// The address of the interface that reaches a server. Nothing is sent.
fn interface_to(server: &Address) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if socket.connect(server.authority()).is_ok() {
        return Ok(socket.local_addr()?.ip());
    }
    let socket = UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0))?;
    socket.connect(server.authority())?;
    Ok(socket.local_addr()?.ip())
}

fn name(text: &str) -> Result<String, String> {
    if WorkerId::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 100 of letters, digits, '-', '_' and '.'".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) =
        text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let number: Option<u64> = digits.parse().ok();
    let time = number.and_then(|number| number.checked_mul(seconds)).filter(|&time| time > 0);
    time.map(Duration::from_secs).ok_or_else(|| "expected a time such as 90s, 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(["dcgan-worker"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "10", "m", "0s", "-1s", "1.5h", "1d", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn workers_on_one_host_have_different_names() {
        let args = parse("--coordinator http://127.0.0.1:7420").unwrap();
        assert!(
            WorkerId::is_name(&args.name())
                && args.name().ends_with(&format!("-{}", std::process::id()))
        );
        assert!(parse("--coordinator http://127.0.0.1:7420 --name a/b").is_err());
    }

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        let args = parse("--coordinator http://127.0.0.1:7420").unwrap();
        let listening = args.listen_address().unwrap();
        assert_eq!(listening.to_string(), "127.0.0.1:0");
        let everywhere = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(args.advertised(everywhere).unwrap().authority(), "127.0.0.1:9000");
        let told =
            parse("--coordinator http://127.0.0.1:7420 --advertise worker-0.workers:7423").unwrap();
        assert_eq!(told.advertised(everywhere).unwrap().authority(), "worker-0.workers:7423");
    }

    #[test]
    fn plaintext_beyond_this_machine_must_be_meant() {
        let error =
            parse("--coordinator http://10.0.0.1:7420").unwrap().check_exposure().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--coordinator: 10.0.0.1:7420 is not an address of this machine")
        );
        let error = parse("--coordinator http://127.0.0.1:1 --listen 0.0.0.0:1")
            .unwrap()
            .check_exposure()
            .unwrap_err();
        assert!(error.to_string().starts_with("--listen: 0.0.0.0:1 is not"), "{error}");
        parse("--coordinator http://10.0.0.1:7420 --listen 0.0.0.0:1 --insecure")
            .unwrap()
            .check_exposure()
            .unwrap();
    }
}
