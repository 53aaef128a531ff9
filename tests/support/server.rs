//! Running `drpcd server`s: one on SQLite, several replicas behind a balancer on Postgres.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::balancer::Balancer;
use super::{PATIENCE, SeededAgent, signal, wait};

/// A server as its agents know it. What is done to it is done to each of its replicas.
pub struct Server {
    replicas: Vec<Replica>,
    balancer: Option<Balancer>,
    /// Where agents come: of the one replica, or of the balancer.
    pub url: String,
    pub agents: Vec<SeededAgent>,
}

/// One process of a server.
struct Replica {
    launch: Launch,
    child: Option<Child>,
    /// Its own, behind the balancer.
    url: String,
}

/// How a process is started, once more if need be.
#[derive(Clone)]
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    log: PathBuf,
}

impl Launch {
    /// By a command that is not given to a process but to each of several; its environment is all they have.
    pub fn new(command: &Command, log: PathBuf) -> Self {
        let set = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
            Some((name.to_owned(), value?.to_owned()))
        };
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(ToOwned::to_owned).collect(),
            variables: command.get_envs().filter_map(set).collect(),
            log,
        }
    }

    /// More arguments.
    pub fn add(&mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) {
        self.arguments.extend(arguments.into_iter().map(Into::into));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Replica {
    /// Starts one and waits until it is ready; with a seed file, it gives the agents of the file.
    fn start(launch: Launch, seed: Option<&Path>) -> (Self, Vec<SeededAgent>) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&launch.log)
            .unwrap();
        let mut command = Command::new(&launch.program);
        command.args(&launch.arguments);
        if let Some(seed) = seed {
            command.arg("--seed").arg(seed);
        }
        command.env_clear().envs(launch.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut replica = Self {
            launch,
            child: Some(child),
            url: String::new(),
        };
        let mut next = || lines.next().map(Result::unwrap);
        let first = next().unwrap_or_else(|| panic!("the server did not start:\n{}", replica.launch.log()));
        let url = first.strip_prefix("listening on ");
        url.unwrap_or_else(|| panic!("unexpected {first:?}"))
            .clone_into(&mut replica.url);
        let count = seed.map_or(0, |seed| {
            std::fs::read_to_string(seed).unwrap().matches("token:").count()
        });
        let agents = (0..count).map(|_| {
            let name = next().unwrap();
            let mut value = |key: &str| next().unwrap().strip_prefix(key).unwrap().to_owned();
            SeededAgent {
                name: name.strip_prefix("# ").unwrap().to_owned(),
                url: value("CODER_AGENT_URL="),
                token: value("CODER_AGENT_TOKEN="),
            }
        });
        let agents = agents.collect();
        (replica, agents)
    }

    /// The exit code, for which it must have been told to stop; at once if it has ended before.
    fn wait(&mut self) -> Option<i32> {
        self.child
            .take()
            .map_or(Some(0), |mut child| wait(&mut child, PATIENCE).code())
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            signal(child, name);
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// One process that agents reach by themselves.
    pub fn alone(launch: Launch, seed: &Path) -> Self {
        let (replica, agents) = Replica::start(launch, Some(seed));
        Self {
            url: replica.url.clone(),
            replicas: vec![replica],
            balancer: None,
            agents,
        }
    }

    /// One process, on a store whose agents were there before.
    pub fn unseeded(launch: Launch) -> Self {
        let (replica, _) = Replica::start(launch, None);
        Self {
            url: replica.url.clone(),
            replicas: vec![replica],
            balancer: None,
            agents: Vec::new(),
        }
    }

    /// Processes that agents reach through a balancer. The first seeds.
    pub fn balanced(launches: Vec<Launch>, seed: &Path, balancer: Balancer) -> Self {
        let mut server = Self {
            replicas: Vec::new(),
            url: balancer.url(),
            balancer: Some(balancer),
            agents: Vec::new(),
        };
        for launch in launches {
            let first = server.replicas.is_empty();
            let (replica, agents) = Replica::start(launch, first.then_some(seed));
            server.replicas.push(replica);
            server.agents.extend(agents);
        }
        server.announce();
        server
    }

    /// From here on nobody gets through to any replica, until [`Server::let_in`].
    pub fn turn_away(&self) {
        if let Some(balancer) = &self.balancer {
            balancer.set_replicas(Vec::new());
        }
    }

    /// From here on connections get through to the replicas again.
    pub fn let_in(&self) {
        self.announce();
    }

    /// Tells the balancer where the replicas are.
    fn announce(&self) {
        if let Some(balancer) = &self.balancer {
            let address = |replica: &Replica| replica.url.strip_prefix("http://").unwrap().parse().unwrap();
            balancer.set_replicas(self.replicas.iter().map(address).collect());
        }
    }

    pub fn agent(&self) -> &SeededAgent {
        &self.agents[0]
    }

    /// SIGTERM, and the exit code: the worst of the replicas'.
    pub fn stop(self) -> Option<i32> {
        self.terminate();
        self.wait()
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGUSR1.
    pub fn swap_coordinator(&self) {
        self.signal("USR1");
    }

    fn signal(&self, name: &str) {
        for replica in &self.replicas {
            replica.signal(name);
        }
    }

    /// The exit code of a server that was told to stop: the worst of the replicas'.
    pub fn wait(mut self) -> Option<i32> {
        let codes: Vec<_> = self.replicas.iter_mut().map(Replica::wait).collect();
        if let Some(balancer) = &self.balancer {
            balancer.settle();
        }
        codes.into_iter().find(|code| *code != Some(0)).unwrap_or(Some(0))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.replicas.iter_mut().for_each(Replica::kill);
    }

    /// Process ids of the replicas that run.
    pub fn pids(&self) -> Vec<u32> {
        let children = self.replicas.iter().filter_map(|replica| replica.child.as_ref());
        children.map(Child::id).collect()
    }

    pub fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Where one replica itself is.
    pub fn replica_url(&self, index: usize) -> &str {
        &self.replicas[index].url
    }

    /// The first agent, as it reaches one replica past the balancer.
    pub fn agent_at(&self, index: usize) -> SeededAgent {
        SeededAgent {
            url: self.replica_url(index).to_owned(),
            ..self.agent().clone()
        }
    }

    /// SIGTERM to one replica, and its exit code.
    pub fn stop_replica(&mut self, index: usize) -> Option<i32> {
        self.replicas[index].signal("TERM");
        self.replicas[index].wait()
    }

    /// SIGKILL to one replica.
    pub fn kill_replica(&mut self, index: usize) {
        self.replicas[index].kill();
    }

    /// Starts one that was stopped or killed; it may be at another port.
    pub fn start_replica(&mut self, index: usize) {
        assert!(self.replicas[index].child.is_none(), "replica {index} runs");
        let (replica, _) = Replica::start(self.replicas[index].launch.clone(), None);
        self.replicas[index] = replica;
        self.announce();
    }
}
