//! Certificates for tests: authorities of their own, and nodes good and bad.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_common::time::{Clock, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::Error;

const NODE_NAME: &str = "millstream-node";
const LATE: i32 = 4_000;
const LONG_AGO: i32 = 2_020;

/// The three files that a process is given.
#[derive(Clone, Debug)]
pub struct Files {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An authority that keeps its files in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority called `name`, in a folder of that name.
    pub fn new(folder: &Path, name: &str) -> Result<Self, Error> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(Error::io("make a folder for certificates"))?;
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).map_err(failed)?;
        let issuer = Issuer::new(params, key);
        let made = Self { folder, issuer };
        made.write("ca.pem", &certificate.pem())?;
        Ok(made)
    }

    /// A node that is in force.
    pub fn node(&self, name: &str) -> Result<Files, Error> {
        self.make(name, LATE)
    }

    /// A node whose time is over.
    pub fn expired(&self, name: &str) -> Result<Files, Error> {
        self.make(name, LONG_AGO)
    }

    /// A node whose time is over in a few days.
    pub fn expiring(&self, name: &str) -> Result<Files, Error> {
        const DAYS: u64 = 20;
        let now = u64::try_from(SystemClock::new().wall_millis()).unwrap_or_default() / 1_000;
        let last = Duration::from_secs(now + DAYS * 86_400);
        self.make_with(name, |params| {
            params.not_after = date_time_ymd(1970, 1, 1) + last;
        })
    }

    /// Trusts another authority's nodes too.
    pub fn trust(&self, other: &Self) -> Result<(), Error> {
        let read = |path: PathBuf| fs::read_to_string(path).map_err(Error::io("read an authority"));
        let both = read(self.folder.join("ca.pem"))? + &read(other.folder.join("ca.pem"))?;
        self.write("ca.pem", &both).map(|_| ())
    }

    fn make(&self, name: &str, last_year: i32) -> Result<Files, Error> {
        self.make_with(name, |params| {
            params.not_after = date_time_ymd(last_year, 12, 31);
        })
    }

    fn make_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Files, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let names = [NODE_NAME, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        change(&mut params);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Files {
            ca: self.folder.join("ca.pem"),
            cert: self.write(&format!("{name}.pem"), &signed.pem())?,
            key: self.write(&format!("{name}.key"), &key.serialize_pem())?,
        })
    }

    fn write(&self, file: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(file);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        Ok(path)
    }
}

fn failed(error: rcgen::Error) -> Error {
    Error::Io {
        action: "make a certificate".to_owned(),
        source: io::Error::other(error),
    }
}
