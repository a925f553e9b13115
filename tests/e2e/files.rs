//! Files and local processes: whatever a run directory holds, and whatever becomes of the processes
//! of `--local`, is said, and stops nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dcgan_core::protocol::plan::Plan;
use dcgan_core::state::{Layout, State};
use dcgan_rpc::pb::feed_client::FeedClient;
use dcgan_rpc::pb::follow_request::Kind;
use dcgan_rpc::{Caller, Checksummed, Who, pb};
use dcgan_store::run_dir::RunDir;
use dcgan_store::state_file;
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::process::{COORD, Process, SAMPLER, assert_names, run, signal};
use crate::run::{Coordinator, LocalWorker, last_digest, local, logged_steps, saved_steps};
use crate::services::connect;

/// Short runs of the toy.
const TOY: &str = "--workers 1 --objective toy --log-every 50 --checkpoint-every 50";

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_run_directory_full_of_traps_is_read_and_written_with_care() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("{TOY} --steps 300"));
    let state = |step| here.join(format!("run/checkpoints/step-{step:08}/state.safetensors"));
    for step in [200, 250, 300] {
        fs::remove_file(state(step)).unwrap();
    }
    make_pipe(&state(200));
    symlink("/dev/zero", state(250)).unwrap();
    fs::File::create(state(300)).unwrap().set_len(200 << 30).unwrap();
    fs::write(here.join("run/checkpoints/notes.tmp"), "important").unwrap();
    fs::create_dir(here.join("run/checkpoints/step-150")).unwrap();
    let verified = run(COORD, here, "verify run", 1);
    assert_names(
        &verified.text,
        &[
            "step-00000200: state.safetensors: not a regular file",
            "step-00000250: state.safetensors: not a regular file",
            "step-00000300: state.safetensors: expected",
        ],
    );

    // Whoever made the directory would like another file to be written to.
    fs::write(here.join("secret"), "important").unwrap();
    for (name, kind) in [("metrics.jsonl", "file"), ("logs/worker-0.log", "log")] {
        let (path, aside) = (here.join("run").join(name), here.join(kind));
        fs::rename(&path, &aside).unwrap();
        symlink(here.join("secret"), &path).unwrap();
        let refused = run(COORD, here, "--out run --local --steps 500", 1);
        assert_names(refused.error(), &[name, "a link to another file, which is not written to"]);
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(fs::read_to_string(here.join("secret")).unwrap(), "important");

    // The run goes on before the traps.
    let resumed = run(COORD, here, "--out run --local --steps 500", 0);
    resumed.event("checkpoint_skipped", &[]);
    resumed.event("run_resumed", &[("step", "150")]);
    resumed.event("checkpoint_replaced", &[("step", "300")]);
    let alone = tempdir().unwrap();
    assert_eq!(last_digest(here), local(alone.path(), &format!("{TOY} --steps 500")));
    assert_eq!(saved_steps(here).last(), Some(&500));
    assert!(here.join("run/checkpoints/notes.tmp").exists());
    run(COORD, here, "verify run", 0);
}

#[test]
fn a_checkpoint_of_another_run_is_named_and_skipped() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("{TOY} --steps 100"));
    let other = tempdir().unwrap();
    let digest = local(other.path(), &format!("{TOY} --steps 300"));
    let foreign = "run/checkpoints/step-00000300";
    fs::create_dir(here.join(foreign)).unwrap();
    for name in ["manifest.json", "state.safetensors"] {
        let path = Path::new(foreign).join(name);
        fs::copy(other.path().join(&path), here.join(path)).unwrap();
    }
    let verified = run(COORD, here, "verify run", 1);
    assert_names(&verified.text, &["step-00000300: it is a checkpoint of run"]);
    let resumed = run(COORD, here, "--out run --local --steps 300", 0);
    resumed.event("checkpoint_skipped", &[]);
    resumed.event("run_resumed", &[("step", "100")]);
    resumed.event("checkpoint_replaced", &[("step", "300")]);
    assert_eq!(last_digest(here), digest);
    assert_eq!(logged_steps(here), [50, 100, 150, 200, 250, 300]);

    // Without run.json, the checkpoints say which run this is.
    fs::remove_file(here.join("run/run.json")).unwrap();
    let restored = run(COORD, here, &format!("--out run --local {TOY} --steps 400"), 0);
    restored.event("identity_restored", &[("step", "300")]);
    restored.event("run_resumed", &[("step", "300")]);
    run(COORD, here, "verify run", 0);
}

#[test]
fn local_processes_reach_a_coordinator_that_listens_on_all_interfaces() {
    let folder = tempdir().unwrap();
    local(folder.path(), &format!("{TOY} --steps 100 --listen 0.0.0.0:0 --insecure"));
}

#[test]
fn a_local_process_that_is_stopped_does_not_outlive_the_coordinator() {
    for (kill, status) in [("INT", Some(130)), ("KILL", None)] {
        let folder = tempdir().unwrap();
        let here = folder.path();
        let arguments = format!("--out run --local --min-workers 1 {TOY} --steps 10000000");
        let arguments = arguments.replace("--workers 1 --objective", "--workers 2 --objective");
        let coordinator = Process::start(COORD, here, &arguments);
        coordinator.wait_for_step(50);
        let worker = LocalWorker::find(here, "worker-1");
        signal("STOP", &worker.process);
        coordinator.wait_for_event("worker_lost", &[("worker", "worker-1")]);
        coordinator.signal(kill);
        let ended = coordinator.wait();
        assert_eq!(ended.status, status, "{}", ended.text);
        if kill == "INT" {
            let left = ended.event("children_left", &[("names", "worker-1")]);
            assert_names(&left.message, &["killed"]);
        }
        worker.wait_until_gone();
    }
}

/// Starts a coordinator of a DCGAN without workers, whose run directory holds these generators, by
/// step.
fn with_pending_grids(folder: &Path, pending: &[(u64, &[u8])]) -> Coordinator {
    let arguments = "--workers 1 --steps 2 --batch-size 32 --shards 2";
    Coordinator::start(folder, arguments).process.signal("KILL");
    for (step, generator) in pending {
        fs::write(folder.join(format!("run/grids/step-{step:08}.pending")), generator).unwrap();
    }
    Coordinator::start(folder, arguments)
}

/// A state file without a tensor.
fn empty_generator() -> Vec<u8> {
    let no_tensors: [(String, Vec<usize>); 0] = [];
    state_file::encode(&State::zeros(Arc::new(Layout::new(no_tensors))))
}

#[test]
fn a_damaged_generator_stops_no_other_grid_and_is_asked_for_once() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let huge = vec![0; 5 * 1024 * 1024];
    let pending = [(20, &b"torn"[..]), (40, &huge), (60, &empty_generator())];
    let coordinator = with_pending_grids(here, &pending);
    let serve = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc 127.0.0.1:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &serve);
    for step in ["20", "40", "60"] {
        coordinator.process.wait_for_event("grid_failed", &[("step", step)]);
    }
    sampler.wait_for_event("draw_failed", &[("step", "60")]);
    sampler.signal("TERM");
    let sampler = sampler.expect(143);
    assert!(!sampler.text.contains("coordinator_lost"), "{}", sampler.text);
    assert_eq!(sampler.text.matches("draw_failed").count(), 1, "{}", sampler.text);
    coordinator.process.signal("INT");
    let ended = coordinator.process.expect(130);
    assert_eq!(ended.text.matches("grid_failed").count(), 3, "{}", ended.text);
}

/// A sampler that is told to draw the grid of step 20: the pictures that it sends go there.
async fn sampler(
    coordinator: &Coordinator,
) -> (mpsc::Sender<pb::FollowRequest>, Streaming<pb::GeneratorSnapshot>) {
    let (requests, queued) = mpsc::channel(4);
    let caller = Caller { run: None, who: Who::Sampler("test".to_owned()) };
    let page = "http://127.0.0.1:1".to_owned();
    let following = pb::Following { page, caller: Some(caller.into()) };
    requests.send(request(Kind::Following(following))).await.unwrap();
    let mut client = FeedClient::new(connect(&coordinator.address).await);
    let mut generators = client.follow(ReceiverStream::new(queued)).await.unwrap().into_inner();
    assert_eq!(generators.message().await.unwrap().unwrap().step, 20);
    (requests, generators)
}

fn request(kind: Kind) -> pb::FollowRequest {
    pb::FollowRequest { kind: Some(kind), checksum: 0 }.with_checksum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_png_file_for_a_step_that_is_due_becomes_a_grid() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = with_pending_grids(here, &[(20, &empty_generator())]);
    let (requests, _open) = sampler(&coordinator).await;
    for step in [999, 20] {
        let grid = pb::Grid { step, png: b"<html>"[..].into() };
        requests.send(request(Kind::Grid(grid))).await.unwrap();
    }
    let failed = coordinator.process.wait_for_event("grid_failed", &[]);
    assert_eq!(failed.field("step"), "20");
    assert_names(&failed.message, &["not a PNG file"]);
    let grids = fs::read_dir(here.join("run/grids")).unwrap();
    let names: Vec<_> = grids.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["step-00000020.pending"]);
}

/// A picture of one grey pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\
    \0\0\0\nIDAT\x78\x9c\x63\x68\0\0\0\x82\0\x81\x77\xcd\x72\xb6\0\0\0\0IEND\xae\x42\x60\x82";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_that_cannot_be_written_is_written_when_the_disk_is_well() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = with_pending_grids(here, &[(20, &empty_generator())]);
    let (requests, _open) = sampler(&coordinator).await;
    // The grids lie on another disk, which is away.
    let (grids, elsewhere) = (here.join("run/grids"), here.join("elsewhere"));
    fs::rename(&grids, here.join("aside")).unwrap();
    symlink(&elsewhere, &grids).unwrap();
    let grid = pb::Grid { step: 20, png: PNG.into() };
    requests.send(request(Kind::Grid(grid))).await.unwrap();
    coordinator.process.wait_for_event("grid_waiting", &[("step", "20")]);
    fs::rename(here.join("aside"), &elsewhere).unwrap();
    // The end tries once more.
    coordinator.process.signal("INT");
    let ended = coordinator.process.expect(130);
    assert!(!ended.text.contains("grid_failed"), "{}", ended.text);
    assert_eq!(fs::read(grids.join("step-00000020.png")).unwrap(), PNG);
    assert!(!grids.join("step-00000020.pending").exists());
}

#[test]
fn a_plan_on_disk_that_does_not_fit_the_run_is_refused() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("{TOY} --steps 50"));
    let (mut dir, file) = RunDir::open(&here.join("run")).unwrap();
    let mut file = file.unwrap();
    let plan = file.plan.unwrap();
    let owners = plan.owners()[1..].to_vec();
    let other = Plan::new(plan.generation, plan.members().to_vec(), owners, plan.start).unwrap();
    file.plan = Some(other);
    dir.save_run(&file).unwrap();
    drop(dir);
    let refused = run(COORD, here, &format!("--out run --local {TOY} --steps 100"), 1);
    assert_names(refused.error(), &["run.json: its plan has 7 shards, and the run has 8"]);
}
