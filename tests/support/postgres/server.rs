//! A Postgres server of a test's own, that may be stopped, started and paused, and have a standby that takes over; and where
//! its programs are found.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::Access;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use url::Url;

use super::{Database, PASSWORD};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Oldest major version that is supported.
const OLDEST: u32 = 15;

/// Free ports that are tried, as another process may take one between the look and the start.
const PORTS: usize = 5;

/// Room that a place in memory must have for the files of servers. One has some 300 MiB at most, and a few run at a time.
const ROOM: u64 = 2 << 30;

/// Commits wait for their WAL to be written, or a server that is stopped at once would lose some; nothing waits for a
/// disk. Dynamic shared memory is a file among the data, so that no end leaves anything in `/dev/shm`.
const SETTINGS: [&str; 10] = [
    "autovacuum=off",
    "dynamic_shared_memory_type=mmap",
    "fsync=off",
    "full_page_writes=off",
    "listen_addresses=127.0.0.1",
    "max_connections=300",
    "max_wal_senders=0",
    "max_wal_size=256MB",
    "synchronous_commit=on",
    "wal_level=minimal",
];

/// Beside those or instead, of a server that has a standby: a commit is acknowledged once the standby has written it too, so
/// that none that was is lost with this server. That holds from the start, not from a reload on, which processes notice one
/// after the other. A base backup commits nothing, so it waits for nobody.
const PRIMARY: &[&str] = &[
    "max_wal_senders=4",
    "synchronous_standby_names=*",
    "wal_level=replica",
];

/// And of the standby, which must have room for as many senders, and waits for nobody once it has taken over.
const STANDBY: &[&str] = &["max_wal_senders=4", "wal_level=replica"];

/// How data is made of nothing.
const INITDB: [&str; 6] = [
    "--no-sync",
    "--no-instructions",
    "--auth=trust",
    "--username=postgres",
    "--locale=C",
    "--encoding=UTF8",
];

/// Waits for the end of whoever holds its standard input, then ends the server of a directory and removes it.
///
/// A paused server is woken to end. Its PID file is the last that it removes; the process itself may stay, unwaited for.
/// One that was just being made writes for a moment more.
const WATCHDOG: &str = r#"
read -r _
file=$1/data/postmaster.pid
pid=$(head -n 1 "$file") && kill -QUIT "$pid" && kill -CONT "$pid"
tries=0
while [ -e "$file" ] && kill -0 "$pid" && [ "$tries" -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
until rm -rf "$1" && [ ! -e "$1" ] || [ "$tries" -ge 300 ]; do sleep 0.05; tries=$((tries + 1)); done
"#;

/// How a server is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// Sessions are ended; all is written.
    Fast,
    /// As by a crash: the next start recovers.
    Immediate,
}

/// A private server of a test's own, on a loopback port that it keeps; ended and removed with it.
#[derive(Debug)]
pub struct Server {
    binaries: PathBuf,
    directory: PathBuf,
    pub(super) url: Url,
    /// Beside [`SETTINGS`], or instead.
    settings: &'static [&'static str],
    child: Option<Child>,
    watchdog: Child,
}

impl Server {
    /// One that runs; `None` without Postgres' binaries.
    pub fn new() -> Option<Self> {
        Some(Self::made_by("initdb", &INITDB, binaries()?, &[]))
    }

    /// One that runs, and a standby that has all that it acknowledges; `None` without the binaries for both.
    pub fn with_standby() -> Option<(Self, Self)> {
        let binaries = binaries()?;
        if !binaries.join("pg_basebackup").exists() {
            untested("no pg_basebackup beside Postgres: what needs a standby is not tested");
            return None;
        }
        let primary = Self::made_by("initdb", &INITDB, binaries, PRIMARY);
        let backup = [
            "--no-sync",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--dbname",
            primary.url(),
        ];
        let standby = Self::made_by("pg_basebackup", &backup, binaries, STANDBY);
        Some((primary, standby))
    }

    /// One whose data a program makes, and that runs.
    fn made_by(
        program: &str,
        arguments: &[&str],
        binaries: &Path,
        settings: &'static [&'static str],
    ) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("drpcd-postgres-")
            .tempdir_in(place())
            .unwrap();
        if let Some((user, group)) = other_user() {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let directory = directory.keep();
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(&directory);
        // A group of its own, as the server has: what ends the test's whole group leaves it to do its work.
        watchdog.process_group(0).stdin(Stdio::piped());
        watchdog.stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self {
            binaries: binaries.to_owned(),
            url: "postgres://postgres@127.0.0.1/postgres".parse().unwrap(),
            settings,
            child: None,
            watchdog: watchdog.spawn().unwrap(),
            directory,
        };
        server.url.set_password(Some(PASSWORD)).unwrap();
        let status = server.command(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} failed:\n{}", server.log());
        let started = (0..PORTS).any(|_| {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            server.url.set_port(Some(port)).unwrap();
            server.try_start()
        });
        assert!(started, "Postgres does not start:\n{}", server.log());
        server
    }

    /// An empty database on it.
    pub fn database(&self) -> Database {
        Database::copy(&self.url, "template0")
    }

    /// Of its database `postgres`, as a superuser.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    pub fn port(&self) -> u16 {
        self.url.port().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Where its Unix socket is.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Its processes: the server itself first, then what it started.
    pub fn pids(&self) -> Vec<u32> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let parent = |pid: u32| -> Option<u32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name before it may hold spaces, but no later parenthesis.
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
        };
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<u32>().ok()
        });
        let own = processes.filter(|&pid| parent(pid) == Some(child.id()));
        std::iter::once(child.id()).chain(own).collect()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// One of its files, by its name below the data directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join("data").join(name)
    }

    /// Stops it and waits until it is gone.
    pub fn stop(&mut self, how: Shutdown) {
        let mut child = self.child.take().unwrap();
        let signal = match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = until(|| child.try_wait().unwrap().is_some());
        assert!(ended, "Postgres does not stop:\n{}", self.log());
    }

    /// Starts it again, on the same port, and waits until it is ready.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        assert!(self.try_start(), "Postgres does not start:\n{}", self.log());
    }

    /// Starts it again as one that takes nothing over TCP but TLS, with a certificate and its key.
    pub fn demand_tls(&mut self, certificate: &str, key: &str) {
        self.stop(Shutdown::Fast);
        let data = self.directory.join("data");
        for (name, text) in [
            ("server.crt", certificate),
            ("server.key", key),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n"),
        ] {
            let file = data.join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = other_user() {
                chown(&file, Some(user), Some(group)).unwrap();
            }
        }
        let settings = data.join("postgresql.conf");
        let mut settings = File::options().append(true).open(settings).unwrap();
        writeln!(settings, "ssl = on").unwrap();
        self.start();
    }

    /// Makes a standby a server of its own, and waits until it takes writes.
    pub fn promote(&self) {
        let status = self.command("pg_ctl").arg("promote").status().unwrap();
        assert!(status.success(), "Postgres is not promoted:\n{}", self.log());
    }

    /// From here on it is silent, in sessions that are open and towards new ones, until [`Server::resume`].
    pub fn pause(&self) {
        let postmaster = self.child.as_ref().unwrap().id();
        // The postmaster first: it starts no further process then.
        signal(postmaster, Signal::STOP);
        for process in children(postmaster) {
            signal(process, Signal::STOP);
        }
    }

    /// It goes on.
    pub fn resume(&self) {
        let postmaster = self.child.as_ref().unwrap().id();
        for process in children(postmaster) {
            signal(process, Signal::CONT);
        }
        signal(postmaster, Signal::CONT);
    }

    /// A program of Postgres on its data directory, as a user that it does not refuse, that writes to its log.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = match other_user() {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={user}"), &format!("--regid={group}")]);
                command.args(["--clear-groups".as_ref(), program.as_os_str()]);
                command
            }
            None => Command::new(program),
        };
        let log = self.directory.join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command.arg("-D").arg(self.directory.join("data"));
        command.current_dir(&self.directory).process_group(0);
        command
    }

    /// Whether it started.
    fn try_start(&mut self) -> bool {
        let mut command = self.command("postgres");
        command.arg("-k").arg(&self.directory);
        command.args(["-p", &self.port().to_string()]);
        for setting in SETTINGS.iter().chain(self.settings) {
            command.arg("-c").arg(setting);
        }
        let libraries = ["../lib", "../lib/postgresql"].map(|path| self.binaries.join(path));
        if libraries
            .iter()
            .any(|path| path.join("pg_stat_statements.so").exists())
        {
            command.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
        }
        let mut child = command.spawn().unwrap();
        let state = self.directory.join("data/postmaster.pid");
        let mut ended = false;
        let settled = until(|| {
            ended = child.try_wait().unwrap().is_some();
            let state = fs::read_to_string(&state).unwrap_or_default();
            let mut lines = state.lines();
            let own = lines.next() == Some(child.id().to_string().as_str());
            // The eighth line, which `pg_ctl` waits for too.
            ended || own && lines.nth(6).is_some_and(|status| status.trim() == "ready")
        });
        assert!(settled, "Postgres does not get ready:\n{}", self.log());
        self.child = (!ended).then_some(child);
        !ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Processes that are paused would keep it waiting for a while.
            self.resume();
        }
        drop(self.watchdog.stdin.take());
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
        let _ = self.watchdog.wait();
    }
}

/// Where servers have their files: in memory where there is room, or else in the temporary directory. Each database is 300
/// files that are made and soon removed, and ext4 searches long for numbers of files that were not in use a moment before
/// (linux `fs/ext4/ialloc.c`, `recently_deleted`): that took a quarter of the processors' time of a run of all tests.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |system| system.f_bavail * system.f_frsize);
    let writable = rustix::fs::access(memory, Access::WRITE_OK).is_ok();
    if room >= ROOM && writable {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Waits until `holds`, and says whether it did within [`PATIENCE`].
fn until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Processes end while they are signalled.
fn signal(process: u32, signal: Signal) {
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, signal);
    }
}

/// The children of a process.
fn children(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `PID (NAME) STATE PARENT …`; a name may have parentheses.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent == of.to_string()).then_some(process)
    });
    processes.collect()
}

/// The user and group for a server of root, which Postgres refuses to be; `None` for anybody else.
fn other_user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find(|line| line.clone().next() == Some(name))?;
        Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).unwrap())
}

/// Where Postgres' programs are; `None`, said once, when there are none, which is a failure where `CI` says so.
fn binaries() -> Option<&'static Path> {
    static BINARIES: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARIES
        .get_or_init(|| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
                .into_iter()
                .flatten()
                .map(|version| version.unwrap().path().join("bin"))
                .collect();
            debian.sort_by_key(|binaries| std::cmp::Reverse(major(binaries)));
            let found = std::env::split_paths(&path)
                .chain(debian)
                .find(|binaries| major(binaries).is_some_and(|major| major >= OLDEST));
            if found.is_none() {
                untested(&format!(
                    "no Postgres {OLDEST} or newer: what needs it is not tested"
                ));
            }
            // Where the programs are and not a link to them: their libraries are beside them.
            found.map(|binaries| match fs::canonicalize(binaries.join("postgres")) {
                Ok(program) => program.parent().unwrap_or(&binaries).to_owned(),
                Err(_) => binaries,
            })
        })
        .as_deref()
}

/// Says what is not tested, which is a failure where `CI` says so.
fn untested(message: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
    eprintln!("{message}");
}

/// The version of the programs in a directory, when they are all there.
fn major(binaries: &Path) -> Option<u32> {
    let version = |program: &str| {
        let output = Command::new(binaries.join(program))
            .arg("--version")
            .output()
            .ok()?;
        let output = String::from_utf8(output.stdout).ok()?;
        // `postgres (PostgreSQL) 15.18 (Debian …)`
        let number = output.split_once("(PostgreSQL) ")?.1;
        number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let initdb: u32 = version("initdb")?;
    version("postgres").filter(|postgres| *postgres == initdb)
}
