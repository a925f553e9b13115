//! The sampler's page and its HTTP API: what they tell of a run, while it trains and afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::process::{COORD, Process, SAMPLER, assert_names, run};
use crate::run::{Coordinator, PACED, local};
use crate::training::all_cores;

const TOY: &str = "--objective toy --log-every 10 --checkpoint-every 50 --grid-every 1000000";

/// An answer over HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The value of a header.
    fn header(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.split_once(": ").filter(|(it, _)| *it == name).is_some();
        let line = self.head.lines().find(|line| value(line)).unwrap_or_default();
        line.split_once(": ").map_or("", |(_, value)| value)
    }
}

/// Asks for a path over HTTP.
pub(crate) fn ask(page: &str, path: &str) -> Answer {
    let authority = page.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

fn json(page: &str, path: &str) -> Value {
    let answer = ask(page, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The events of a run from now on, as name and data.
fn events(page: &str) -> impl Iterator<Item = (String, Value)> {
    let authority = page.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&authority).unwrap();
    write!(stream, "GET /runs/0/events HTTP/1.1\r\nHost: {authority}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    std::iter::from_fn(move || {
        let name = lines.by_ref().find_map(|it| Some(it.strip_prefix("event: ")?.to_owned()))?;
        let data = lines.by_ref().find_map(|it| Some(it.strip_prefix("data: ")?.to_owned()))?;
        Some((name, serde_json::from_str(&data).unwrap()))
    })
}

/// Starts a sampler; gives it and the address of its page.
fn serve(here: &Path, arguments: &str) -> (Process, String) {
    let serve = format!("serve {arguments} --http 127.0.0.1:0 --grpc 127.0.0.1:0");
    let sampler = Process::start(SAMPLER, here, &serve);
    let page = sampler.wait_for_event("sampler_started", &[]).field("page").to_owned();
    (sampler, page)
}

/// Waits until the status says so; gives it.
fn wait_for_status(page: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut events = events(page).filter(|(name, _)| name == "status");
    events.find(|(_, status)| is_wanted(status)).expect("a status comes every second").1
}

#[test]
fn a_page_follows_a_run_from_its_first_step_to_its_end() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 1000000000"));
    let (_sampler, by_directory) = serve(here, "--run run");
    let (_other, by_coordinator) = serve(here, &format!("--coordinator {}", coordinator.address));
    for page in [&by_directory, &by_coordinator] {
        let waiting = wait_for_status(page, |status| status["state"] == "running");
        assert_eq!(waiting["reason_code"], "gathering", "{waiting}");
    }
    let worker = coordinator.worker(here, &format!("--name w {PACED}"));
    for page in [&by_directory, &by_coordinator] {
        let rows = events(page).find(|(name, _)| name == "rows").unwrap().1;
        assert!(rows[0]["d_loss_real"].is_number() && rows[0]["generation"] == 1, "{rows}");
        let status = wait_for_status(page, |status| status["newest_row"].is_object());
        assert_eq!((&status["workers"][0]["name"], &status["name"]), (&"w".into(), &"run".into()));
        assert_eq!(status["last_step"], 1_000_000_000);
        let after = rows[0]["step"].as_u64().unwrap();
        let later = json(page, &format!("/runs/0/rows?after={after}&until={}", after + 10));
        assert_eq!(later.as_array().unwrap().len(), 1, "{later}");
    }
    assert_names(&ask(&by_directory, "/runs/0/metrics.csv").text(), &["step,epoch,d_loss_real"]);

    // Nobody answers any more.
    coordinator.process.signal("STOP");
    let lost = wait_for_status(&by_directory, |status| status["state"] == "unreachable");
    assert_names(lost["sentence"].as_str().unwrap(), &["the coordinator has not answered for "]);
    coordinator.process.signal("CONT");
    wait_for_status(&by_directory, |status| status["state"] == "running");

    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    worker.expect(0);
    for page in [&by_directory, &by_coordinator] {
        let ended = wait_for_status(page, |status| status["state"] == "stopped");
        assert_names(ended["sentence"].as_str().unwrap(), &["stopped after step ", "SIGINT"]);
        let go_on = ended["go_on_with"].as_str().unwrap();
        assert_names(go_on, &["dcgan-coord --out ", "run --listen", "--workers 1"]);
    }
    // Without a script, too.
    assert_names(&ask(&by_directory, "/").text(), &["stopped after step ", "SIGINT"]);
}

#[test]
fn a_page_shows_two_runs_and_escapes_their_names() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let names = ["a", "<script>b"];
    for name in names {
        run(COORD, here, &format!("--out {name} --local --workers 1 {TOY} --steps 60"), 0);
    }
    let (_sampler, page) = serve(here, "--run a --run <script>b");
    assert_eq!(json(&page, "/runs"), serde_json::json!([{ "name": "a" }, { "name": "<script>b" }]));
    for number in [0, 1] {
        let rows = json(&page, &format!("/runs/{number}/rows"));
        assert_eq!(rows.as_array().unwrap().len(), 6, "{rows}");
    }
    let html = ask(&page, "/");
    assert_names(html.header("content-security-policy"), &["default-src 'self'"]);
    assert!(!html.text().contains("<script>b"), "{}", html.text());
    assert_names(&html.text(), &["&lt;script&gt;b", "\\u003cscript>b", "finished: 60 steps"]);
    for part in ["/page.css", "/page.js", "/icon.svg"] {
        assert_eq!(ask(&page, part).status, 200, "{part}");
    }
    let third = run(SAMPLER, here, "serve --run a --run a --run a", 2);
    assert_names(third.error(), &["--run: the page shows 2 runs at most"]);
}

#[test]
fn a_page_draws_what_is_asked_for_and_refuses_the_rest_in_a_sentence() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    {
        let _cores = all_cores();
        let small = "--workers 2 --steps 2 --batch-size 32 --shards 2 --grid-every 1";
        local(here, &format!("{small} --checkpoint-every 1"));
    }
    let (sampler, page) = serve(here, "--run run");
    sampler.wait_for_event("showing", &[("step", "2")]);
    wait_for_status(&page, |status| status["shown"]["step"] == 2);
    let picture = |path: &str| {
        let answer = ask(&page, &format!("/runs/0/{path}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    };

    // A digit is named by its seed and its number, and an interpolation begins and ends with one.
    let many = picture("sample.png?seed=5&rows=1&columns=3");
    let digest = json(&page, "/runs/0/status")["digest"].as_str().unwrap().to_owned();
    assert_eq!((many.header("x-step"), many.header("x-digest")), ("2", &*digest));
    let one = |path: &str| pixels(&picture(path).body, 28);
    let third = one("sample.png?seed=5&first=2&rows=1&columns=1");
    assert!(
        pixels(&many.body, 84).chunks(84).zip(third.chunks(28)).all(|(all, it)| all[56..] == *it)
    );
    let way = pixels(&picture("interpolation.png?from=5:2&to=6:0&frames=4").body, 112);
    assert!(way.chunks(112).zip(third.chunks(28)).all(|(all, it)| all[..28] == *it));
    assert_ne!(one("sample.png?seed=5&first=2&rows=1&columns=1&truncation=0.5"), third);
    assert_ne!(one("sample.png?seed=5&first=2&rows=1&columns=1&weights=raw"), third);
    let older = picture("sample.png?seed=5&checkpoint=1");
    assert_eq!(older.header("x-step"), "1");

    // What can be downloaded.
    let grid = std::fs::read(here.join("run/grids/step-00000002.png")).unwrap();
    assert_eq!(picture("grids/2.png").body, grid);
    assert_eq!(json(&page, "/runs/0/grids"), serde_json::json!([1, 2]));
    assert!(picture("history.gif").body.starts_with(b"GIF89a"));
    let weights = picture("generator.safetensors");
    assert_names(weights.header("content-disposition"), &["generator-step-2.safetensors"]);
    std::fs::write(here.join("generator.safetensors"), &weights.body).unwrap();

    for (path, status, why) in [
        ("sample.png?rows=33", 400, "rows: expected a number from 1 to 32"),
        ("sample.png?columns=99999999999", 400, "columns: expected a number from 1 to 32"),
        ("sample.png?seed=-1", 400, "seed: expected a number from 0 to "),
        ("sample.png?first=99999999", 400, "first: expected a number from 0 to 10000"),
        ("sample.png?truncation=nan", 400, "truncation: expected a number from 0.1 to 1.5"),
        ("sample.png?weights=best", 400, "weights: expected ema or raw"),
        ("sample.png?checkpoint=../../x", 400, "checkpoint: expected newest, best or a step"),
        ("sample.png?checkpoint=7", 404, "there is no checkpoint of this step; there are: 1, 2"),
        ("sample.png?checkpoint=best", 404, "it has no evaluation"),
        ("interpolation.png?from=5:0", 400, "to: expected SEED:INDEX, such as 5:0"),
        ("interpolation.png?from=5&to=5:1", 400, "from: expected SEED:INDEX, such as 5:0"),
        ("interpolation.png?from=5:0&to=5:1&frames=0", 400, "frames: expected a number from 2"),
        ("grids/3.png", 404, "there is no such grid"),
        ("grids/..%2f..%2frun.json", 404, "there is no such grid"),
    ] {
        let answer = ask(&page, &format!("/runs/0/{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_names(&answer.text(), &[why]);
    }
    assert_eq!(ask(&page, "/runs/2/status").status, 404);
    assert_eq!(ask(&page, "/../../etc/passwd").status, 404);
}

/// The grey pixels of a PNG of this width.
fn pixels(file: &[u8], width: u32) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    assert_eq!(reader.next_frame(&mut pixels).unwrap().width, width);
    pixels
}
