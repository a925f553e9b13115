//! Pictures from the sampler: over gRPC, over HTTP, and as files.

use std::path::Path;

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::ObjectiveKind;
use dcgan_rpc::pb;
use dcgan_rpc::pb::sampler_client::SamplerClient;
use dcgan_store::dataset::{Dataset, Source};
use tempfile::tempdir;
use tonic::Code;
use tonic::transport::Channel;

use crate::page::ask;
use crate::process::{Process, SAMPLER, assert_names, run, wait_for_files};
use crate::run::local;
use crate::services::{check_services, connect};
use crate::training::all_cores;

/// Decodes a PNG to its end; gives its width and height.
fn decode(bytes: &[u8]) -> (u32, u32) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.iter().any(|&pixel| pixel > 0), "it is not black");
    (info.width, info.height)
}

/// Asks for a page over HTTP; gives the body of the answer.
pub(crate) fn get(address: &str, path: &str) -> Vec<u8> {
    let answer = ask(address, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.head);
    answer.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampler_draws_the_same_pictures_for_its_page_for_grpc_and_for_files() {
    let folder = tempdir().unwrap();
    {
        let _cores = all_cores();
        local(folder.path(), "--workers 2 --steps 2 --batch-size 32 --shards 2 --grid-every 1");
    }
    let serve = "serve --run run --http 127.0.0.1:0 --grpc 127.0.0.1:0";
    let sampler = Process::start(SAMPLER, folder.path(), serve);
    let started = sampler.wait_for_event("sampler_started", &[]);
    let (page, address) = (started.field("page"), started.field("grpc").to_owned());
    sampler.wait_for_event("showing", &[("step", "2")]);

    let newest = std::fs::read(folder.path().join("run/grids/step-00000002.png")).unwrap();
    assert_eq!(get(page, "/grid.png"), newest, "the page shows what the run directory holds");
    assert!(String::from_utf8(get(page, "/")).unwrap().contains("<img"));

    let channel = connect(&address).await;
    let mut samples = SamplerClient::new(channel.clone());
    let mut ask = async |seed, rows, columns| {
        samples
            .sample(pb::SampleRequest { seed, rows, columns })
            .await
            .map(tonic::Response::into_inner)
    };
    let own = ask(None, None, None).await.unwrap();
    assert_eq!((own.step, &*own.png), (2, &*newest), "without a seed, the run's own grid");
    let few = ask(Some(7), Some(2), Some(3)).await.unwrap();
    assert_eq!(decode(&few.png), (92, 62));
    assert_eq!(
        ask(Some(7), Some(2), Some(3)).await.unwrap().png,
        few.png,
        "the same seed, the same picture"
    );
    assert_ne!(ask(Some(8), Some(2), Some(3)).await.unwrap().png, few.png);
    let refused = ask(None, Some(33), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_names(refused.message(), &["rows: expected 1 to 32, found 33"]);

    check_services(&channel, &["dcgan.v1.Sampler"]).await;
    check_crowd(&samples).await;
    sampler.signal("TERM");
    sampler.expect(143);
    check_files(folder.path(), &newest);
    check_defaults(folder.path(), &newest);
    check_signals(folder.path());
}

/// Checks that of many large pictures a few are drawn and the others refused in words, and that
/// those that nobody waits for any more keep nobody waiting.
async fn check_crowd(samples: &SamplerClient<Channel>) {
    let large = pb::SampleRequest { seed: None, rows: Some(32), columns: Some(32) };
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (mut samples, large) = (samples.clone(), large);
        crowd.spawn(async move { samples.sample(large).await });
    }
    // The refusals come first, because drawing takes long.
    let refusal = crowd.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_names(refusal.message(), &["8 pictures are being drawn or waited for"]);
    crowd.shutdown().await;
    let small = pb::SampleRequest { seed: None, rows: Some(1), columns: Some(1) };
    // The server may not have seen all of them go.
    while let Err(status) = samples.clone().sample(small).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
}

/// Checks that `grid` and `export` draw the same pictures as the sampler.
fn check_files(folder: &Path, newest: &[u8]) {
    run(SAMPLER, folder, "grid --run run --out again.png", 0);
    assert_eq!(std::fs::read(folder.join("again.png")).unwrap(), newest);
    run(SAMPLER, folder, "grid --run run --rows 1 --columns 2 --seed 3 --out two.png", 0);
    assert_eq!(decode(&std::fs::read(folder.join("two.png")).unwrap()), (62, 32));
    // The run's own grids are drawn with the moving average. After two steps it is another picture.
    run(SAMPLER, folder, "grid --run run --weights ema --out ema.png", 0);
    assert_eq!(std::fs::read(folder.join("ema.png")).unwrap(), newest);
    run(SAMPLER, folder, "grid --run run --weights raw --out raw.png", 0);
    let raw = std::fs::read(folder.join("raw.png")).unwrap();
    assert_ne!(raw, newest);
    let serve = "serve --run run --weights raw --http 127.0.0.1:0 --grpc 127.0.0.1:0";
    let sampler = Process::start(SAMPLER, folder, serve);
    let started = sampler.wait_for_event("sampler_started", &[]);
    sampler.wait_for_event("showing", &[("step", "2")]);
    assert_eq!(get(started.field("page"), "/grid.png"), raw);
    std::fs::create_dir(folder.join("drawn")).unwrap();
    run(SAMPLER, folder, "export --run run --count 40 --out drawn/train-images-idx3-ubyte.gz", 0);
    let source = Source::Path(folder.join("drawn"));
    let drawn = Dataset::load(&source, None, ObjectiveKind::Dcgan).unwrap().info();
    assert_eq!((drawn.images, drawn.rows, drawn.columns), (40, 28, 28));
    check_arrays(folder);
}

/// The values of a NumPy array with one of the headers of 128 bytes that the sampler writes.
fn read_array(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let values = bytes[128..].chunks_exact(4);
    values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Checks that arrays hold the same images as an IDX file, and the latents that they are drawn
/// with.
fn check_arrays(folder: &Path) {
    for (seed, purpose, number) in [("", Purpose::Grid, 22), ("--seed 3", Purpose::Sample, 3)] {
        run(SAMPLER, folder, &format!("export --run run --count 40 {seed} --out drawn.npy"), 0);
        run(SAMPLER, folder, &format!("export --run run --count 40 {seed} --out drawn.idx"), 0);
        let pixels = std::fs::read(folder.join("drawn.idx")).unwrap().split_off(16);
        let values = read_array(&folder.join("drawn.npy"));
        let rounded = values.iter().map(|value| ((value + 1.0) * 127.5).round_ties_even() as u8);
        assert_eq!(rounded.collect::<Vec<u8>>(), pixels);

        // A seed needs no run, and of more latents the first are the same.
        let place = if seed.is_empty() { "--run run" } else { "--run missing" };
        run(SAMPLER, folder, &format!("latents {place} --count 50 {seed} --out z.npy"), 0);
        let latents = read_array(&folder.join("z.npy"));
        assert_eq!(latents.len(), 50 * 100);
        let expected = RandomStream::new(number, purpose, 0, 0).normals(40 * 100);
        assert_eq!(latents[..40 * 100], expected.collect::<Vec<f32>>());
    }
}

/// Checks that a run in the default place needs no flag, and that no file is replaced by default.
fn check_defaults(folder: &Path, newest: &[u8]) {
    std::fs::create_dir(folder.join("runs")).unwrap();
    std::fs::rename(folder.join("run"), folder.join("runs/dcgan")).unwrap();
    let drawn = run(SAMPLER, folder, "grid", 0).text;
    assert_names(&drawn, &["grid.png: 10 x 10 digits of step 2"]);
    let refused = run(SAMPLER, folder, "grid --seed 1", 2);
    assert_names(refused.error(), &["grid.png exists already", "--out"]);
    assert_eq!(std::fs::read(folder.join("grid.png")).unwrap(), newest);
    let sampler = Process::start(SAMPLER, folder, "serve --http 127.0.0.1:0 --grpc 127.0.0.1:0");
    sampler.wait_for_event("showing", &[("step", "2")]);
}

/// Checks that a signal ends an export, and that no part of its file stays.
fn check_signals(folder: &Path) {
    let out = folder.join("many");
    std::fs::create_dir(&out).unwrap();
    let written = || std::fs::read_dir(&out).unwrap().count();
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let export = Process::start(SAMPLER, folder, "export --count 1000000 --out many/digits");
        wait_for_files(|| written() > 0);
        export.signal(signal);
        let name = format!("SIG{signal}");
        export.expect(status).event("not_written", &[("signal", &name)]);
        assert_eq!(written(), 0);
        let eval = Process::start(SAMPLER, folder, "eval");
        eval.wait_for_event("judging", &[("count", "10000")]);
        eval.signal(signal);
        eval.expect(status).event("not_judged", &[("signal", &name)]);
    }
}
