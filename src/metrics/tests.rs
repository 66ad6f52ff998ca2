use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::*;
use crate::filesystem::tests::fresh;

/// A report of a store with a file in either tier.
fn report() -> Report {
    let (_folder, fs) = fresh();
    let volume = fs.volume();
    let me = crate::volume::Caller { uid: 0, gid: 0 };
    let write = |name: &[u8], data: &[u8]| {
        let attr = volume.make_node(crate::volume::ROOT, name, 0o644, 0, me);
        let flags = crate::volume::WriteFlags::empty();
        let ino = attr.unwrap().ino;
        volume.write_file(ino, 0, data, flags).unwrap();
        volume.sync().unwrap();
        volume.read_file(ino, 0, 10).unwrap();
    };
    write(b"cold", &b"cold ".repeat(5000));
    volume.tier().drain(&mut |_| true).unwrap();
    write(b"hot", &b"hot ".repeat(5000));
    let report = fs.report().unwrap();
    fs.close().unwrap();
    report
}

/// Samples by name: their type and the labels of the first.
fn samples(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut kinds = BTreeMap::new();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kinds.insert(name.to_string(), kind.to_string());
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            let kind = kinds
                .get(name)
                .or_else(|| kinds.get(name.strip_suffix("_total").unwrap()));
            let labels = match rest.split_once('}') {
                Some((labels, _)) => labels[1..]
                    .split(',')
                    .map(|label| label.split('=').next().unwrap().to_string())
                    .collect(),
                None => Vec::new(),
            };
            found.insert(name.to_string(), (kind.unwrap().clone(), labels));
        }
    }
    found
}

#[test]
fn the_contract_lists_every_metric_and_no_other() {
    let text = text(&report()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let mut described = BTreeMap::new();
    for line in include_str!("../../docs/METRICS.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, name, kind, labels, _, _] = cells[..]
            && let Some(name) = name.strip_prefix("`laconicfs_")
        {
            let labels = labels.split(',').map(|l| l.trim().trim_matches('`'));
            described.insert(
                format!("laconicfs_{}", name.trim_end_matches('`')),
                (
                    kind.to_string(),
                    labels.filter(|l| !l.is_empty()).map(String::from).collect(),
                ),
            );
        }
    }
    assert_eq!(samples(&text), described);
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let names = samples(&text(&report()).unwrap());
    let dashboard = include_str!("../../docs/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let mut rest = target["expr"].as_str().unwrap();
            while let Some(at) = rest.find("laconicfs_") {
                let name: String = rest[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                assert!(names.contains_key(&name), "{name} does not exist");
                asked += 1;
                rest = &rest[at + name.len()..];
            }
        }
    }
    assert!(asked > 10, "the dashboard asks for {asked} metrics");
}

#[test]
fn figures_are_those_of_the_report() {
    let report = report();
    let text = text(&report).unwrap();
    let has = |line: String| assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    has(format!("laconicfs_logical_bytes {}", report.logical));
    has(format!("laconicfs_queue_chunks {}", report.queue.chunks));
    has(format!(
        "laconicfs_written_bytes_total {}",
        report.traffic.written
    ));
    for row in &report.chunks {
        has(format!(
            "laconicfs_chunk_stored_bytes{{tier=\"{}\",codec=\"{}\"}} {}",
            row.tier, row.codec, row.stored
        ));
    }
    assert_eq!((report.traffic.read, report.traffic.written), (20, 45_000));
}

fn ask(mut stream: impl Read + Write, request: &str) -> String {
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn both_kinds_of_sockets_answer() {
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let server = Server::start(&listen, || Ok("figures\n".into())).unwrap();
    let address = server.address();
    let connect = || TcpStream::connect(&address).unwrap();
    let reply = ask(connect(), "GET /metrics");
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.contains(CONTENT_TYPE),
        "{reply}"
    );
    assert!(reply.ends_with("figures\n"), "{reply}");
    assert!(ask(connect(), "GET /").starts_with("HTTP/1.1 404"));
    assert!(ask(connect(), "DELETE /metrics").starts_with("HTTP/1.1 405"));
    drop(server);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let failing = || Err(Error::ReadOnly);
    let server = Server::start(&Listen::Unix(path.clone()), failing).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let reply = ask(UnixStream::connect(&path).unwrap(), "GET /metrics");
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    // One that is in use is not taken away.
    assert!(Server::start(&Listen::Unix(path.clone()), failing).is_err());
    drop(server);
    assert!(!path.exists());
}

#[test]
fn only_this_machine_is_served() {
    for good in ["127.0.0.1:9464", "[::1]:80"] {
        let listen: Listen = good.parse().unwrap();
        assert_eq!(listen.to_string(), good);
    }
    let socket = Listen::Unix("/run/x".into());
    assert_eq!("unix:/run/x".parse(), Ok(socket.clone()));
    assert_eq!("/run/x".parse(), Ok(socket));
    for bad in [
        "0.0.0.0:9464",
        "192.168.1.1:80",
        "9464",
        "localhost:1",
        "x/y",
        "unix:x",
    ] {
        assert!(bad.parse::<Listen>().is_err(), "{bad}");
    }
    let outside = Listen::Tcp(([0, 0, 0, 0], 0).into());
    assert!(Server::start(&outside, || Ok(String::new())).is_err());
}
