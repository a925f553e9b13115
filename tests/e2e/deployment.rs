//! The manifests in `deploy/`: the programs understand their arguments, and they render.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use dcgan_rpc::services::Program;
use dcgan_store::idx::PAYLOAD_BYTES_MAX;

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base")
}

/// The items of the list below `key:` in a manifest with one container; what Kubernetes fills in is
/// filled in.
fn list(manifest: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(base().join(manifest)).unwrap();
    let below = text.lines().skip_while(|line| line.trim() != format!("{key}:")).skip(1);
    let items = below.map_while(|line| line.trim().strip_prefix("- "));
    items
        .map(|item| item.replace("$(JOB_COMPLETION_INDEX)", "3").replace("$(POD_IP)", "10.0.0.7"))
        .collect()
}

fn command_line(manifest: &str) -> Vec<String> {
    [list(manifest, "command"), list(manifest, "args")].concat()
}

#[test]
fn the_programs_understand_the_arguments_of_their_containers() {
    let coordinator = dcgan_coord::Args::try_parse_from(command_line("coordinator.yaml")).unwrap();
    assert_eq!((coordinator.given.insecure, coordinator.given.local), (Some(true), None));
    let worker = dcgan_worker::Args::try_parse_from(command_line("workers.yaml")).unwrap();
    assert_eq!(worker.name.as_deref(), Some("worker-3"));
    assert_eq!(worker.advertise.unwrap().authority(), "10.0.0.7:7423");
    assert_eq!(worker.coordinator.to_string(), "http://dcgan-coord:7420");
    let sampler = command_line("sampler.yaml");
    dcgan_sampler::Args::try_parse_from(&sampler)
        .unwrap_or_else(|error| panic!("{sampler:?}: {error}"));
    for manifest in ["coordinator.yaml", "workers.yaml", "sampler.yaml"] {
        assert!(list(manifest, "args").len() > 3, "the arguments of {manifest} are found");
    }
}

#[test]
fn a_container_is_ready_when_a_service_that_its_program_offers_is() {
    let probes = [
        ("coordinator.yaml", Program::Coordinator),
        ("workers.yaml", Program::Worker),
        ("sampler.yaml", Program::Sampler),
    ];
    for (manifest, program) in probes {
        let text = std::fs::read_to_string(base().join(manifest)).unwrap();
        let probed = text.lines().find_map(|line| line.trim().strip_prefix("service: ")).unwrap();
        assert!(program.services().any(|name| name == probed), "{manifest}: {probed}");
    }
}

#[test]
fn the_coordinator_may_take_the_memory_that_the_largest_data_file_needs() {
    let text = std::fs::read_to_string(base().join("coordinator.yaml")).unwrap();
    let limits = text.lines().skip_while(|line| line.trim() != "limits:").nth(1).unwrap();
    let limit = limits.trim().strip_prefix("memory: ").unwrap().strip_suffix("Mi").unwrap();
    assert_eq!(limit.parse::<u64>().unwrap(), (PAYLOAD_BYTES_MAX >> 20) + 256);
}

#[test]
fn the_manifests_render() {
    let rendered = Command::new("kubectl").arg("kustomize").arg(base()).output();
    let Ok(rendered) = rendered else {
        println!("skipped: there is no kubectl here");
        return;
    };
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let text = String::from_utf8(rendered.stdout).unwrap();
    for kind in
        ["Namespace", "PersistentVolumeClaim", "Service", "Job", "Deployment", "NetworkPolicy"]
    {
        assert!(text.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    assert_eq!(text.matches("image: dcgan:0.1.0").count(), 3);
}

#[test]
fn network_policies_allow_the_ports_that_the_containers_listen_on() {
    let policies = std::fs::read_to_string(base().join("network.yaml")).unwrap();
    for manifest in ["coordinator.yaml", "workers.yaml", "sampler.yaml"] {
        let text = std::fs::read_to_string(base().join(manifest)).unwrap();
        let component = text.lines().find(|line| line.contains("/component: ")).unwrap().trim();
        let policy = policies.split("---").find(|policy| {
            policy.split("policyTypes").next().is_some_and(|head| head.contains(component))
        });
        let ingress = policy.unwrap().split("ingress:").nth(1).unwrap().split("egress:").next();
        for port in text.lines().filter_map(|line| line.trim().strip_prefix("containerPort: ")) {
            assert!(ingress.unwrap().contains(&format!("- port: {port}")), "{manifest}: {port}");
        }
    }
}
