//! The verbs `eval` and `train-evaluator`: how good are samples, and by whose judgement?

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::thread;

use anyhow::{Context, anyhow, bail};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::networks::{EVALUATED_DATA, EVALUATION};
use dcgan_core::spec::{DatasetInfo, ObjectiveKind};
use dcgan_core::words::counted;
use dcgan_model::PIXELS;
use dcgan_model::evaluation::{self, Evaluator, IMAGES_MIN, LabelledImages, PIECE_IMAGES, Report};
use dcgan_process::exit::{status, usage};
use dcgan_process::output::print_result;
use dcgan_process::{print, signals};
use dcgan_store::dataset::{Dataset, Labelled, Source, Split};
use dcgan_store::evaluator_file::EvaluatorFile;
use dcgan_store::file;
use serde_json::{Map, Value, json};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::args::{EvalArgs, TrainEvaluatorArgs};
use crate::export::check_out;
use crate::run_dir;

/// Samples without `--count`, as in an evaluation during the training.
pub(crate) const SAMPLES: u32 = EVALUATION.pieces as u32 * PIECE_IMAGES as u32;

/// Prints how good samples are: those of a checkpoint, or those in a file. Returns the exit status.
///
/// The judgement takes up to minutes, on a thread of its own: a signal ends the program meanwhile.
pub(crate) fn eval(args: &EvalArgs) -> anyhow::Result<u8> {
    let mut signal = signals::listen()?;
    let (args, (result_in, result)) = (args.clone(), oneshot::channel());
    thread::Builder::new().name("judge".to_owned()).spawn(move || {
        // After a signal nobody waits for it.
        let _ = result_in.send(judge(&args));
    })?;
    Builder::new_current_thread().build()?.block_on(async {
        tokio::select! {
            text = result => print_result(&text??)?,
            signal = signal.take() => {
                tracing::warn!(event = "not_judged", %signal, "not judged, because of {signal}");
                return Ok(signal.status());
            }
        }
        Ok(status::FINISHED)
    })
}

/// Judges samples. Returns the text to print.
fn judge(args: &EvalArgs) -> anyhow::Result<String> {
    let given = args
        .evaluator
        .as_ref()
        .map(|path| EvaluatorFile::read(path).with_context(|| path.display().to_string()));
    let given = given.transpose()?;
    let source = args.data.clone().map_or(Source::Mnist, Source::Path);
    let mut training = load(&source, None)?;
    let count = args.count as usize;
    let (what, samples, evaluator) = match &args.images {
        Some(path) => {
            let samples = read_samples(path, count)?;
            let (what, evaluator) = (path.display().to_string(), evaluator_for(given, &training)?);
            log_begin(count, &what);
            (what, samples, evaluator)
        }
        None => {
            let checkpoint = run_dir::checkpoint(&args.which.run, args.which.checkpoint)?;
            let weights = args.which.weights.map(Into::into);
            let generator = run_dir::generator(&checkpoint, weights)?;
            training = as_trained(&source, training, checkpoint.manifest().config.data())?;
            let kept = if given.is_some() { None } else { run_dir::evaluator(&args.which.run)? };
            let evaluator = evaluator_for(given.or(kept), &training)?;
            let what = format!("step {}", generator.step);
            log_begin(count, &what);
            let seed = args.seed.unwrap_or(generator.seed);
            let pieces = (0..count / PIECE_IMAGES)
                .flat_map(|piece| generator.generator.draw_piece(seed, piece as u32));
            (what, pieces.collect(), evaluator)
        }
    };
    let report = evaluator.report(&samples, training.pixels());
    // What can be had at best: training images in place of samples.
    let floor = (training.info().images >= count)
        .then(|| evaluator.report(&some_images(training.pixels(), count), &[]));
    Ok(if args.json {
        format!("{}\n", as_json(&report, floor.as_ref()))
    } else {
        as_table(&what, count, &report, floor.as_ref())
    })
}

fn log_begin(count: usize, what: &str) {
    let samples = counted(count, "sample");
    tracing::info!(event = "judging", count, "judging {samples} of {what} ...");
}

fn load(source: &Source, transpose: Option<bool>) -> anyhow::Result<Dataset> {
    Dataset::load(source, transpose, ObjectiveKind::Dcgan).context("--data").map_err(usage)
}

/// The images as a run was trained on them, which may have turned them; copies are looked for among
/// them.
fn as_trained(
    source: &Source,
    training: Dataset,
    trained_on: &DatasetInfo,
) -> anyhow::Result<Dataset> {
    let found = training.info();
    if found == *trained_on {
        return Ok(training);
    }
    let turned = !training.is_transposed();
    drop(training);
    let training = load(source, Some(turned))?;
    if training.info() != *trained_on {
        bail!(usage(anyhow!(
            "--data: the run was trained on {trained_on}, and these are {found}: give the run's"
        )));
    }
    Ok(training)
}

/// The evaluator in a file, or else the one that is built in, for these training images.
fn evaluator_for(file: Option<EvaluatorFile>, training: &Dataset) -> anyhow::Result<Evaluator> {
    let data = training.info();
    match file {
        Some(file) => {
            file.check_data(&data).map_err(usage)?;
            Ok(Evaluator::from_file(&file)?)
        }
        None if data.digest == EVALUATED_DATA => Ok(Evaluator::mnist()),
        None => bail!(usage(anyhow!(
            "--evaluator: the one that is built in knows MNIST, and these are other images; make \
             one with dcgan-sampler train-evaluator, and give it to --evaluator"
        ))),
    }
}

/// Trains an evaluator and writes its file.
pub(crate) fn train_evaluator(args: &TrainEvaluatorArgs) -> anyhow::Result<u8> {
    check_out(&args.out, &["safetensors"], "give a name that ends in .safetensors")?;
    if args.data.as_os_str() == "mnist" && !args.data.exists() {
        bail!(usage(anyhow!(
            "--data: the evaluator of mnist is built in; for other data give their folder, which \
             has the classes of the images, too (see --help)"
        )));
    }
    let load = |split| Labelled::load(&args.data, split).context("--data").map_err(usage);
    let (training, test) = (load(Split::Training)?, load(Split::Test)?);
    for (split, part) in [("training", &training), ("test", &test)] {
        let found = part.labels.len();
        if found < IMAGES_MIN {
            bail!(usage(anyhow!(
                "--data: expected at least {IMAGES_MIN} {split} images, found {found}"
            )));
        }
    }
    let mut accuracy = 0.0;
    let bytes =
        evaluation::train(images(&training), images(&test), args.epochs, |epoch, loss, right| {
            accuracy = right;
            print(&format!(
                "epoch {epoch}/{}: loss {loss:.4}, {:.2}% of {} right\n",
                args.epochs,
                100.0 * right,
                counted(test.labels.len(), "test image"),
            ));
        });
    let out = args.out.display();
    file::write_by(&args.out, |file| file.write_all(&bytes)).with_context(|| out.to_string())?;
    print(&format!("{out}: an evaluator that is right in {:.2}%\n", 100.0 * accuracy));
    Ok(status::FINISHED)
}

fn images(of: &Labelled) -> LabelledImages<'_> {
    LabelledImages { pixels: &of.pixels, labels: &of.labels }
}

/// Chooses `count` of these images in a random order: those that follow each other are often by one
/// writer.
fn some_images(pixels: &[u8], count: usize) -> Vec<u8> {
    let order = RandomStream::new(0, Purpose::Evaluation, 0, 1).permutation(pixels.len() / PIXELS);
    let image = |place: &u32| &pixels[*place as usize * PIXELS..][..PIXELS];
    order[..count].iter().flat_map(image).copied().collect()
}

/// Reads the first samples in an IDX file.
fn read_samples(path: &Path, count: usize) -> anyhow::Result<Vec<u8>> {
    if !path.exists() {
        bail!(usage(anyhow!("--images: {}: there is no such file", path.display())));
    }
    let source = Source::Path(path.to_owned());
    let samples = Dataset::load(&source, Some(false), ObjectiveKind::Dcgan)
        .context("--images")
        .map_err(usage)?;
    let found = samples.info().images;
    if found < count {
        let (path, images) = (path.display(), counted(found, "image"));
        let most = found - found % PIECE_IMAGES;
        bail!(usage(match most {
            ..IMAGES_MIN =>
                anyhow!("--images: {path} has {images}, and at least {IMAGES_MIN} are needed"),
            _ => anyhow!(
                "--images: {path} has {images}, fewer than --count {count}: give --count {most}"
            ),
        }));
    }
    Ok(samples.pixels()[..count * PIXELS].to_vec())
}

/// The values of a report by their names.
fn rows(report: &Report) -> Vec<(&'static str, f64)> {
    let mut rows: Vec<_> =
        EVALUATION.names.iter().copied().zip(report.values.iter().copied()).collect();
    let coverage = report.coverage;
    rows.extend([
        ("precision", coverage.precision),
        ("recall", coverage.recall),
        ("density", coverage.density),
        ("coverage", coverage.coverage),
        ("copies", report.copies),
    ]);
    rows
}

fn as_json(report: &Report, floor: Option<&Report>) -> Value {
    let object = |report: &Report| {
        let mut object: Map<String, Value> =
            rows(report).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        object.insert("classes".to_owned(), json!(report.classes));
        Value::Object(object)
    };
    json!({ "samples": object(report), "training_images": floor.map(object) })
}

/// A table with a column for the samples and one for training images.
fn as_table(what: &str, count: usize, report: &Report, floor: Option<&Report>) -> String {
    let mut text =
        format!("{} of {what}, and as many training images\n\n", counted(count, "sample"));
    let floor_rows = floor.map(rows).unwrap_or_default();
    _ = writeln!(text, "{:<20} {:>10} {:>10}", "", "samples", "training");
    for (row, (name, value)) in rows(report).into_iter().enumerate() {
        // A training image is its own copy.
        let floor = floor_rows.get(row).filter(|_| name != "copies");
        let floor = floor.map_or_else(|| "-".to_owned(), |(_, value)| format!("{value:.4}"));
        _ = writeln!(text, "{name:<20} {value:>10.4} {floor:>10}");
    }
    text += "\nclass";
    for class in 0..report.classes.len() {
        _ = write!(text, " {class:>6}");
    }
    text += "\nshare";
    for share in report.classes {
        _ = write!(text, " {share:>6.3}");
    }
    text + "\n"
}
