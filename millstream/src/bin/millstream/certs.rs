//! `millstream certs`: an authority of one's own, and node certificates signed by it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use millstream::common::time::{Clock, SystemClock};
use millstream_proto::tls::{self, NODE_NAME, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use xxhash_rust::xxh3::xxh3_64;

const DAY: Duration = Duration::from_secs(86_400);
/// Certificates are valid from a little before now: clocks of a cluster differ.
const BACKDATED: Duration = Duration::from_secs(3_600);
const AUTHORITY_DAYS: u32 = 3_650;
const AUTHORITY: &str = "ca";
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
/// Names that every node answers to on its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes the certificates with which driver and executors know each other
///
/// Writes ca.pem and ca.key, an authority of your own, and node.pem and node.key, a certificate for the driver and the executors. Where DIR has an
/// authority already, it signs the new certificate. Nothing is overwritten.
#[derive(Args, Debug)]
pub struct CertsArgs {
    /// Folder for the files; made if it isn't there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Name or address by which Prometheus and browsers reach the machine; may be given many times. Driver and executors need none of it
    #[arg(long, value_name = "NAME_OR_IP")]
    host: Vec<String>,
    /// Days until the certificate expires; the authority's own is valid for ten years
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    /// What the certificate's files are called: NAME.pem and NAME.key
    #[arg(long, value_name = "NAME", default_value = "node")]
    name: String,
}

/// Certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--name` is no file name.
    #[error(
        "--name {name} can't be used: letters, digits, - and _, and not `ca`, which is the authority's"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// `--host` is no host.
    #[error(
        "--host {host} is neither a host name nor an IP address: give it without scheme and port"
    )]
    Host {
        /// What was given.
        host: String,
    },
    /// A file is there.
    #[error(
        "{path} is there already and is not overwritten: give the new certificate another --name, or move the old one away"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Half of an authority is there.
    #[error(
        "{present} is there, but {absent} is not: put it back, or move {present} away to make a new authority (every node then needs a new certificate)"
    )]
    HalfAuthority {
        /// What is there.
        present: PathBuf,
        /// What isn't.
        absent: PathBuf,
    },
    /// A key can't be read as one.
    #[error("{path} is no private key in PEM: {source}; put the authority's own key there")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A file or folder can't be read or written.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Nobody would accept the certificate.
    #[error(
        "the new certificate doesn't fit the authority that is there: {source}; was ca.pem made with ca.key, and by this command? Put the two back, or make a new authority in another folder"
    )]
    Authority {
        /// What is wrong.
        source: tls::Error,
    },
    /// The certificate could not be made.
    #[error("could not make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The time can't be said.
    #[error("could not make the certificate: this machine's clock is off: {0}")]
    Time(#[from] jiff::Error),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Name { .. } | Self::Host { .. } => 2,
            _ => 1,
        }
    }
}

/// Makes what the arguments ask for, and says so on standard output.
///
/// # Errors
/// [`Error`]; what was there before is left as it was.
pub fn run(args: &CertsArgs) -> Result<(), Error> {
    let now = SystemClock::new().wall_millis();
    make_and_show(
        args,
        Timestamp::from_millisecond(now)?,
        &mut io::stdout().lock(),
    )
}

fn make_and_show(args: &CertsArgs, now: Timestamp, out: &mut impl Write) -> Result<(), Error> {
    let made = make(args, now)?;
    // The files are there, whether anybody reads this or not.
    let _ = made.show(args, out);
    Ok(())
}

/// What was made.
struct Made {
    files: Vec<PathBuf>,
    names: Vec<String>,
    expires: Timestamp,
}

fn make(args: &CertsArgs, now: Timestamp) -> Result<Made, Error> {
    check_name(&args.name)?;
    let names = names(&args.host)?;
    fs::create_dir_all(&args.dir).map_err(failed("make the folder", &args.dir))?;
    let certificate = args.dir.join(format!("{}.pem", args.name));
    let key = args.dir.join(format!("{}.key", args.name));
    for path in [&certificate, &key] {
        if path.exists() {
            return Err(Error::Exists { path: path.clone() });
        }
    }
    let mut files = Vec::new();
    let authority = authority(&args.dir, now, &mut files)?;
    let expires = now + DAY * args.days;
    let node_key = KeyPair::generate()?;
    let node = node_params(&names, now, expires)?.signed_by(&node_key, &authority)?;
    write_new(&key, &node_key.serialize_pem(), KEY_MODE)?;
    write_new(&certificate, &node.pem(), CERTIFICATE_MODE)?;
    let text = |path: &Path| path.display().to_string();
    let ca = args.dir.join("ca.pem");
    if let Err(source) = Tls::load(&text(&ca), &text(&certificate), &text(&key)) {
        // Of no use to anybody.
        for path in [&certificate, &key] {
            fs::remove_file(path).map_err(failed("remove", path))?;
        }
        return Err(Error::Authority { source });
    }
    files.extend([certificate, key]);
    Ok(Made {
        files,
        names,
        expires,
    })
}

impl Made {
    fn show(&self, args: &CertsArgs, out: &mut impl Write) -> io::Result<()> {
        let path = |file: String| args.dir.join(file).display().to_string();
        for file in &self.files {
            writeln!(out, "wrote {}", file.display())?;
        }
        let names = self.names.join(", ");
        let until = self.expires.strftime("%Y-%m-%d");
        writeln!(out, "valid until {until} for {names}")?;
        writeln!(
            out,
            "the driver and every executor take: --conf tls.ca={} --conf tls.cert={} --conf tls.key={}",
            path("ca.pem".to_owned()),
            path(format!("{}.pem", args.name)),
            path(format!("{}.key", args.name)),
        )?;
        writeln!(
            out,
            "keep {} to yourself: whoever has it can make nodes of this cluster",
            path("ca.key".to_owned())
        )
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name == AUTHORITY || !name.chars().all(valid) {
        return Err(Error::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// All names of a node's certificate, each once.
fn names(hosts: &[String]) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = Vec::new();
    for name in std::iter::once(NODE_NAME).chain(LOCAL_NAMES) {
        names.push(name.to_owned());
    }
    for host in hosts {
        if !is_host(host) {
            return Err(Error::Host { host: host.clone() });
        }
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    Ok(names)
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(valid)
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(is_label))
}

/// The folder's authority; a new one where there is none.
fn authority(
    dir: &Path,
    now: Timestamp,
    files: &mut Vec<PathBuf>,
) -> Result<Issuer<'static, KeyPair>, Error> {
    let certificate = dir.join("ca.pem");
    let key = dir.join("ca.key");
    match (certificate.exists(), key.exists()) {
        (true, true) => {
            let text = fs::read_to_string(&key).map_err(failed("read", &key))?;
            let key_pair =
                KeyPair::from_pem(&text).map_err(|source| Error::BadKey { path: key, source })?;
            let params = authority_params(&key_pair, now)?;
            Ok(Issuer::new(params, key_pair))
        }
        (false, false) => {
            let key_pair = KeyPair::generate()?;
            let params = authority_params(&key_pair, now)?;
            let made = params.self_signed(&key_pair)?;
            write_new(&key, &key_pair.serialize_pem(), KEY_MODE)?;
            write_new(&certificate, &made.pem(), CERTIFICATE_MODE)?;
            files.extend([certificate, key]);
            Ok(Issuer::new(params, key_pair))
        }
        (true, false) => Err(Error::HalfAuthority {
            present: certificate,
            absent: key,
        }),
        (false, true) => Err(Error::HalfAuthority {
            present: key,
            absent: certificate,
        }),
    }
}

/// The authority's name follows from its key, so that two authorities are never taken for one another, and one is found again from its key.
fn authority_params(key: &KeyPair, now: Timestamp) -> Result<CertificateParams, Error> {
    let mut params = params(Vec::new(), now, now + DAY * AUTHORITY_DAYS)?;
    let number = xxh3_64(key.public_key_raw());
    let name = format!("Millstream authority {number:016x}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A node is client and server: executors dial the driver and each other.
fn node_params(
    names: &[String],
    now: Timestamp,
    expires: Timestamp,
) -> Result<CertificateParams, Error> {
    let mut params = params(names.to_vec(), now, expires)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Millstream node");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(
    names: Vec<String>,
    now: Timestamp,
    expires: Timestamp,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch =
        |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default());
    params.not_before = epoch + since_epoch(now - BACKDATED);
    params.not_after = epoch + since_epoch(expires);
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    match opened {
        Ok(mut file) => file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed("write", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed("write", path)(error)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(dir: &Path, name: &str) -> CertsArgs {
        CertsArgs {
            dir: dir.to_owned(),
            host: vec!["driver.example".to_owned(), "10.0.0.7".to_owned()],
            days: 30,
            name: name.to_owned(),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millisecond(SystemClock::new().wall_millis()).expect("time")
    }

    fn content(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .expect("folder")
            .map(|entry| {
                let entry = entry.expect("entry");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, fs::read_to_string(entry.path()).expect("file"))
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn that_nobody_reads_what_was_made_is_no_error() {
        let folder = tempfile::tempdir().expect("folder");
        let (reader, mut closed) = io::pipe().expect("pipe");
        drop(reader);
        make_and_show(&args(folder.path(), "node"), now(), &mut closed).expect("made");
        assert_eq!(content(folder.path()).len(), 4);
    }

    #[test]
    fn four_files_are_written_and_only_their_owner_reads_the_keys() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("certs");
        let made = make(&args(&dir, "node"), now()).expect("made");
        assert_eq!(made.files.len(), 4);
        for (name, text) in content(&dir) {
            let mode = fs::metadata(dir.join(&name)).expect("file").permissions();
            let (label, expected) = match name.as_str() {
                "ca.pem" | "node.pem" => ("BEGIN CERTIFICATE", 0o644),
                "ca.key" | "node.key" => ("BEGIN PRIVATE KEY", 0o600),
                other => panic!("{other} was written"),
            };
            assert!(text.contains(label), "{name}: {text}");
            assert_eq!(mode.mode() & 0o777 & !0o022, expected & !0o022, "{name}");
        }
        let mut said = Vec::new();
        made.show(&args(&dir, "node"), &mut said).expect("said");
        let said = String::from_utf8(said).expect("text");
        let until = (now() + DAY * 30).strftime("%Y-%m-");
        assert!(said.contains(&format!("valid until {until}")), "{said}");
        let names = "for millstream-node, localhost, 127.0.0.1, ::1, driver.example, 10.0.0.7";
        assert!(said.contains(names), "{said}");
        assert!(!said.contains("BEGIN"), "a key was shown: {said}");
    }

    #[test]
    fn nothing_is_overwritten_and_a_further_node_has_the_same_authority() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        make(&args(dir, "node"), now()).expect("made");
        let before = content(dir);
        let again = make(&args(dir, "node"), now())
            .map(|_| ())
            .expect_err("refused");
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        assert!(again.to_string().contains("--name"), "{again}");
        assert_eq!(content(dir), before);
        let made = make(&args(dir, "second"), now()).expect("made");
        assert_eq!(made.files, [dir.join("second.pem"), dir.join("second.key")]);
        let after = content(dir);
        assert!(before.iter().all(|file| after.contains(file)));
    }

    #[test]
    fn half_an_authority_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        make(&args(dir, "node"), now()).expect("made");
        fs::remove_file(dir.join("ca.key")).expect("removed");
        let error = make(&args(dir, "second"), now())
            .map(|_| ())
            .expect_err("refused");
        assert!(error.to_string().contains("ca.key is not"), "{error}");
        assert!(!dir.join("second.key").exists());
    }

    #[test]
    fn an_authority_whose_key_is_another_is_found_out() {
        let folder = tempfile::tempdir().expect("folder");
        let (ours, theirs) = (folder.path().join("a"), folder.path().join("b"));
        for dir in [&ours, &theirs] {
            make(&args(dir, "node"), now()).expect("made");
        }
        fs::copy(theirs.join("ca.key"), ours.join("ca.key")).expect("copied");
        let error = make(&args(&ours, "second"), now())
            .map(|_| ())
            .expect_err("refused");
        assert!(
            error.to_string().contains("doesn't fit the authority"),
            "{error}"
        );
        assert!(!ours.join("second.key").exists());
    }

    #[test]
    fn what_is_no_name_or_host_is_refused() {
        for name in ["", "ca", "a/b", "..", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for host in ["http://a", "a:7077", "", "a..b", "-a", "a b"] {
            assert!(!is_host(host), "{host}");
        }
        for host in ["a", "a.b-c", "10.0.0.1", "fe80::1", "driver_1"] {
            assert!(is_host(host), "{host}");
        }
    }
}
