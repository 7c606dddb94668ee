//! The cluster's certificates: an authority of its own, valid for a month, for nobody else.
//!
//! openssl makes them, as it is on every machine that has package signatures; the keys never leave the cluster's folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::place::{API_SERVICE, NODE, NODE_ADDRESS};
use crate::process;

const DAYS: &str = "30";

/// Makes the authority, the key of service account tokens, and a certificate for each that talks.
pub(crate) fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    openssl(dir, &["genrsa", "-out", "sa.key", "2048"])?;
    openssl(
        dir,
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            DAYS,
            "-subj",
            "/CN=sidestep-test-cluster",
        ],
    )?;
    let names = format!(
        "subjectAltName=IP:127.0.0.1,IP:{NODE_ADDRESS},IP:{API_SERVICE},DNS:localhost,DNS:kubernetes,\
         DNS:kubernetes.default,DNS:kubernetes.default.svc\nextendedKeyUsage=serverAuth,clientAuth\n"
    );
    // The API server is a client of the kubelet, too.
    signed(
        dir,
        "apiserver",
        "/O=system:masters/CN=kube-apiserver",
        &names,
    )?;
    signed(
        dir,
        "admin",
        "/O=system:masters/CN=admin",
        "extendedKeyUsage=clientAuth\n",
    )?;
    let node = format!(
        "subjectAltName=IP:127.0.0.1,IP:{NODE_ADDRESS},DNS:{NODE}\nextendedKeyUsage=clientAuth,serverAuth\n"
    );
    signed(
        dir,
        "node",
        &format!("/O=system:nodes/CN=system:node:{NODE}"),
        &node,
    )
}

/// A certificate for something in the cluster that serves under a name.
pub(crate) fn serving(dir: &Path, file: &str, name: &str) -> Result<()> {
    let extensions = format!("subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth\n");
    signed(dir, file, &format!("/CN={name}"), &extensions)
}

fn signed(dir: &Path, name: &str, subject: &str, extensions: &str) -> Result<()> {
    let [key, request, certificate, file] =
        ["key", "csr", "crt", "ext"].map(|end| format!("{name}.{end}"));
    fs::write(dir.join(&file), extensions)?;
    openssl(
        dir,
        &[
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj",
            subject,
        ],
    )?;
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            &certificate,
            "-days",
            DAYS,
            "-extfile",
            &file,
        ],
    )
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<()> {
    process::output(Command::new("openssl").args(arguments).current_dir(dir)).map(drop)
}
