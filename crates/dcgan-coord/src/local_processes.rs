//! The processes of `--local`: workers and a sampler, started again when they die, and none outlives the coordinator.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use dcgan_rpc::net::Address;
use tokio::sync::mpsc;

use crate::driver::Input;

/// A child that dies is started again so many times.
const RESTARTS_MAX: usize = 3;
/// Children that have not ended by then are killed.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// The sampler among the children.
const SAMPLER: &str = "sampler";

/// What the children are started with.
pub(crate) struct LocalSettings {
    pub(crate) coordinator: Address,
    pub(crate) workers: usize,
    pub(crate) threads: u16,
    pub(crate) sampler: bool,
    pub(crate) logs: PathBuf,
}

/// The children.
pub(crate) struct LocalProcesses {
    children: Vec<Managed>,
    driver: mpsc::Sender<Input>,
    running: Arc<Running>,
    first_death: Option<Death>,
}

/// How many children have not ended.
#[derive(Default)]
struct Running {
    count: Mutex<usize>,
    changed: Condvar,
}

struct Managed {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    restarts: usize,
    alive: bool,
    /// It ends when this closes.
    lifeline: Option<ChildStdin>,
}

/// The end of a child that was not asked for.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    pub(crate) name: String,
    pub(crate) status: ExitStatus,
    pub(crate) log: PathBuf,
}

impl LocalProcesses {
    /// Starts the children. Their deaths are told to `driver`.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn start(plan: &LocalSettings, driver: mpsc::Sender<Input>) -> anyhow::Result<Self> {
        let coordinator = [
            "--coordinator".to_owned(),
            plan.coordinator.to_string(),
            "--exit-with-stdin".to_owned(),
        ];
        let mut children = Vec::new();
        let mut add = |name: String, program: &str, more: &[String]| -> anyhow::Result<()> {
            children.push(Managed {
                log: plan.logs.join(format!("{name}.log")),
                name,
                program: beside_this_program(program)?,
                arguments: more.to_vec(),
                restarts: 0,
                alive: false,
                lifeline: None,
            });
            Ok(())
        };
        for worker in 0..plan.workers {
            let name = format!("worker-{worker}");
            let own = [
                "--name".to_owned(),
                name.clone(),
                "--threads".to_owned(),
                plan.threads.to_string(),
            ];
            add(name, "dcgan-worker", &[&coordinator[..], &own].concat())?;
        }
        if plan.sampler {
            let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"].map(str::to_owned);
            add(
                SAMPLER.to_owned(),
                "dcgan-sampler",
                &[&["serve".to_owned()], &coordinator[..], &ports].concat(),
            )?;
        }
        let mut local = Self { children, driver, running: Arc::default(), first_death: None };
        for index in 0..local.children.len() {
            local.spawn(index)?;
        }
        Ok(local)
    }

    fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let managed = &mut self.children[index];
        let mut child = managed
            .spawn()
            .with_context(|| format!("cannot start {}", managed.program.display()))?;
        managed.lifeline = child.stdin.take();
        managed.alive = true;
        *self.running.lock() += 1;
        let (driver, running) = (self.driver.clone(), Arc::clone(&self.running));
        let waiter = move || {
            let status = child.wait();
            *running.lock() -= 1;
            running.changed.notify_all();
            if let Ok(status) = status {
                let _ = driver.blocking_send(Input::ChildEnded(index, status));
            }
        };
        std::thread::Builder::new().name(format!("wait-{}", managed.name)).spawn(waiter)?;
        Ok(())
    }

    /// A child has ended although nobody asked it to: starts it again, unless it was started too often.
    pub(crate) fn ended(&mut self, index: usize, status: ExitStatus) {
        let managed = &mut self.children[index];
        managed.alive = false;
        managed.lifeline = None;
        let Managed { name, log, .. } = managed;
        tracing::warn!("{name} ended with {status}; its log is {}", log.display());
        self.first_death.get_or_insert_with(|| Death {
            name: name.clone(),
            status,
            log: log.clone(),
        });
        if managed.restarts == RESTARTS_MAX {
            tracing::error!("{name} is not started again: it was {RESTARTS_MAX} times");
            return;
        }
        managed.restarts += 1;
        tracing::info!("starting {name} again ({} of {RESTARTS_MAX})", managed.restarts);
        if let Err(error) = self.spawn(index) {
            tracing::error!("{error:#}");
        }
    }

    /// A child has ended, as it was told to.
    pub(crate) fn left(&mut self, index: usize) {
        self.children[index].alive = false;
        self.children[index].lifeline = None;
    }

    /// Workers that run, or will again.
    pub(crate) fn workers(&self) -> usize {
        self.children.iter().filter(|child| child.alive && child.name != SAMPLER).count()
    }

    /// Whether this child is the sampler.
    pub(crate) fn is_sampler(&self, index: usize) -> bool {
        self.children[index].name == SAMPLER
    }

    /// Whether there is a sampler.
    pub(crate) fn has_sampler(&self) -> bool {
        self.children.iter().any(|child| child.alive && child.name == SAMPLER)
    }

    /// The first end that was not asked for.
    pub(crate) fn first_death(&self) -> Option<&Death> {
        self.first_death.as_ref()
    }

    /// Ends every child that has not ended, and waits for them.
    pub(crate) fn end(mut self) {
        for child in &mut self.children {
            child.lifeline = None;
        }
        let count = self.running.lock();
        let waited = self.running.changed.wait_timeout_while(count, ENDING_MAX, |count| *count > 0);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *count > 0 {
            tracing::warn!("{} local processes have not ended", *count);
        }
    }
}

impl Running {
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Managed {
    fn spawn(&self) -> anyhow::Result<Child> {
        let log = open_log(&self.log).with_context(|| self.log.display().to_string())?;
        let mut command = Command::new(&self.program);
        // Variables are meant for the coordinator: what a child needs, it is told.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DCGAN_"))
        {
            command.env_remove(name);
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches the coordinator alone.
            .process_group(0);
        Ok(command.spawn()?)
    }
}

pub(crate) fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

pub(crate) fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "{}: not found; --local needs all programs in one folder",
        path.display()
    );
    Ok(path)
}
