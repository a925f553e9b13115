//! The arrows between crates: which crate may depend on which. ARCHITECTURE.md draws them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate of this project, and the crates of this project that it may use.
const ARROWS: [(&str, &[&str]); 10] = [
    ("dcgan", &["dcgan-coord", "dcgan-sampler", "dcgan-worker"]),
    ("dcgan-collective", &["dcgan-core", "dcgan-rpc"]),
    ("dcgan-coord", &["dcgan-core", "dcgan-process", "dcgan-rpc", "dcgan-store"]),
    ("dcgan-core", &[]),
    ("dcgan-model", &["dcgan-core", "dcgan-store"]),
    ("dcgan-process", &[]),
    ("dcgan-rpc", &["dcgan-core"]),
    ("dcgan-sampler", &["dcgan-core", "dcgan-model", "dcgan-process", "dcgan-rpc", "dcgan-store"]),
    ("dcgan-store", &["dcgan-core"]),
    (
        "dcgan-worker",
        &[
            "dcgan-collective",
            "dcgan-core",
            "dcgan-model",
            "dcgan-process",
            "dcgan-rpc",
            "dcgan-store",
        ],
    ),
];

/// Packages by name, each with the packages that its code uses.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read() -> Self {
        let version = output("rustc", &["-vV"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let arguments =
            ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
        let metadata: Value = serde_json::from_str(&output(env!("CARGO"), &arguments)).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let array = |value: &Value| value.as_array().unwrap().clone();
        let names: BTreeMap<String, String> = array(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        // The arrows are about the programs: tests and build scripts may use any crate.
        let is_normal = |dependency: &Value| {
            array(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null())
        };
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"]) {
            let used = array(&node["deps"]).into_iter().filter(is_normal);
            let used = used.map(|dependency| names[&text(&dependency["pkg"])].clone());
            graph.entry(names[&text(&node["id"])].clone()).or_default().extend(used);
        }
        Self(graph)
    }
}

/// Everything that a package is built with, itself included. Only Cargo's tree, and not its
/// metadata, knows which optional parts of a library are left out.
fn all_below(package: &str) -> BTreeSet<String> {
    let tree = output(
        env!("CARGO"),
        &[
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    );
    let names: BTreeSet<String> =
        tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.contains(package), "{tree}");
    names
}

/// Runs a program in the root of this project; gives what it prints.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_tensor_library(package: &str) -> bool {
    package == "burn" || package.starts_with("burn-") || package == "dcgan-model"
}

#[test]
fn crates_use_only_the_crates_that_their_arrows_allow() {
    let graph = Graph::read();
    let ours = |package: &&String| package.starts_with("dcgan");
    let names: Vec<&str> = graph.0.keys().filter(ours).map(String::as_str).collect();
    assert_eq!(names, ARROWS.map(|(name, _)| name), "every crate is listed in ARROWS");
    for (package, allowed) in ARROWS {
        let used: Vec<&str> = graph.0[package].iter().filter(ours).map(String::as_str).collect();
        assert_eq!(
            used, allowed,
            "the crates that {package} uses: change ARROWS and ARCHITECTURE.md if it is meant"
        );
    }
}

#[test]
fn only_the_model_knows_the_tensor_library() {
    let graph = Graph::read();
    let users: Vec<&String> =
        graph.0.iter().filter(|(_, used)| used.contains("burn")).map(|(name, _)| name).collect();
    assert_eq!(users, ["dcgan-model"]);
    let loaded: Vec<String> =
        all_below("dcgan-coord").into_iter().filter(|name| is_tensor_library(name)).collect();
    assert!(loaded.is_empty(), "the coordinator loads {loaded:?}");
}

#[test]
fn the_core_performs_no_io() {
    let below = all_below("dcgan-core");
    for library in ["tokio", "tonic", "hyper", "rand", "mio", "socket2", "tempfile"] {
        assert!(!below.contains(library), "dcgan-core uses {library}");
    }
}
