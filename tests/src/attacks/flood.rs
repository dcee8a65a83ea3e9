//! Attacks by amount: what they cost us is measured, and what is left of it afterwards.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;

use super::bytes::unescape;
use super::mint::Mint;
use super::stage::Stage;
use super::{Entrance, Group, Scene, frames};
use crate::mesh::port;
use crate::{Conversation, PATIENCE, Request};

const MIB: f64 = 1024.0 * 1024.0;

/// How much a sent byte may weigh in memory where a mebibyte or more is sent.
const RATIO: f64 = 20.0;

/// How much a connection may weigh where less is sent.
const PER_CONNECTION: f64 = 2.0 * MIB;

/// What may stay in memory afterwards.
const LEFT_OVER: f64 = 20.0 * MIB;

/// One attack by amount.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flood {
    /// Names it.
    pub id: String,
    /// What an attacker hopes for, and what happens.
    pub what: String,
    /// Where it was seen first.
    #[serde(default)]
    pub source: Option<String>,
    /// The scene.
    #[serde(default = "super::open")]
    pub scene: String,
    /// Where it is tried: entrances, or `hbone` for the connection that tunnels run on.
    pub on: Vec<Place>,
    /// Connections at once.
    #[serde(default = "one")]
    pub connections: usize,
    /// Frames that each connection sends.
    #[serde(default)]
    pub frames: Option<String>,
    /// Bytes that each connection sends.
    #[serde(default)]
    pub raw: Option<String>,
    /// The window of its streams.
    #[serde(default)]
    pub window: Option<u32>,
    /// What the backend answers; an empty text: nothing.
    #[serde(default)]
    pub reply: Option<String>,
    /// How the first connection ends, as in cases; `OPEN`: it does not.
    pub ends: Vec<String>,
    /// The reason under which refusals are counted.
    #[serde(default)]
    pub counted: Option<String>,
    /// What others are answered meanwhile.
    #[serde(default = "ok")]
    pub others: u16,
    /// Seconds of the processor it may cost.
    #[serde(default)]
    pub cpu_s: Option<f64>,
    /// The defence without which it succeeds.
    #[serde(default)]
    pub defence: Option<String>,
}

/// Where a flood comes in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A gateway's port, HTTP/1.
    GatewayH1,
    /// A gateway's port, HTTP/2.
    GatewayH2,
    /// A stream of a tunnel, HTTP/1 inside.
    TunnelH1,
    /// A stream of a tunnel, HTTP/2 inside.
    TunnelH2,
    /// The HBONE connection itself.
    Hbone,
    /// Its port, without TLS.
    HbonePlain,
    /// The admin port.
    Admin,
}

/// What one attack cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Flood and place.
    pub name: String,
    /// Bytes sent.
    pub sent: f64,
    /// Bytes of memory at the peak, beyond those before.
    pub peak: f64,
    /// Bytes left afterwards.
    pub left: f64,
    /// Seconds of the processor.
    pub cpu_s: f64,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl Cost {
    /// Memory for each byte sent.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.peak / self.sent
    }
}

/// Tries the floods of a group that are chosen, each on a process of its own.
///
/// # Panics
/// When a scene can not be set up.
#[must_use]
pub fn flood(group: &Group, chosen: impl Fn(&Flood) -> bool) -> Vec<Cost> {
    flood_without(None, group, chosen)
}

/// The same without a defence.
///
/// # Panics
/// When a scene can not be set up.
#[must_use]
pub fn flood_without(
    defence: Option<&str>,
    group: &Group,
    chosen: impl Fn(&Flood) -> bool,
) -> Vec<Cost> {
    let mint = Rc::new(Mint::new(&group.keys, &group.tokens));
    let mut costs = Vec::new();
    for flood in group.floods.iter().filter(|flood| chosen(flood)) {
        for place in &flood.on {
            let scene = group.scene(&flood.scene);
            costs.push(once(defence, flood, *place, &scene, &mint));
        }
    }
    costs
}

fn once(
    defence: Option<&str>,
    flood: &Flood,
    place: Place,
    scene: &Scene,
    mint: &Rc<Mint>,
) -> Cost {
    let mut scene = scene.clone();
    // One core, so that nothing depends on how many there are.
    scene.args.extend(["--workers".to_owned(), "1".to_owned()]);
    let stage = Stage::set(defence, &scene, None, mint);
    let address = match place {
        Place::GatewayH1 => stage.address(Entrance::GatewayH1, "default/a"),
        Place::GatewayH2 => stage.address(Entrance::GatewayH2, "default/a"),
        Place::TunnelH1 => stage.address(Entrance::TunnelH1, "default/a"),
        Place::TunnelH2 => stage.address(Entrance::TunnelH2, "default/a"),
        Place::Hbone => stage.hbone("default/a"),
        Place::HbonePlain => stage.mesh.hbone(),
        Place::Admin => stage.wayline.address(port::ADMIN),
    };
    // Everything that is made once is made before.
    assert_eq!(probe(&stage), 200);
    let reply = flood.reply.as_deref().map(unescape);
    stage.backend.answer(reply);
    let before = Usage::of(stage.wayline.process.id(), true);
    let is_h2 = matches!(place, Place::GatewayH2 | Place::TunnelH2 | Place::Hbone);
    let bytes = message(flood, is_h2);
    let attackers: Vec<_> = (0..flood.connections)
        .map(|_| {
            let bytes = bytes.clone();
            std::thread::spawn(move || attack(address, &bytes))
        })
        .collect();
    let mut sent = 0;
    let mut streams = Vec::new();
    for attacker in attackers {
        let (stream, written) = attacker.join().unwrap();
        sent += written;
        streams.extend(stream);
    }
    let mut wrong = Vec::new();
    let ends = match streams.first_mut() {
        Some(stream) => ending(stream, is_h2, &flood.ends),
        None => "CLOSED".to_owned(),
    };
    if !flood.ends.contains(&ends) {
        wrong.push(format!("it ends with {ends}, not {:?}", flood.ends));
    }
    if let Some(reason) = &flood.counted {
        let counted = eventually_some(|| stage.wayline.refusals(reason) > 0.0);
        if !counted {
            wrong.push(format!("nothing was counted as {reason}"));
        }
    }
    stage.backend.answer(None);
    // What is sent in many pieces may still be on its way in.
    let mut others = probe(&stage);
    eventually_some(|| {
        others = probe(&stage);
        others == flood.others
    });
    // What was sent last has had its turn when this was answered twice.
    std::thread::sleep(Duration::from_millis(500));
    let _answered = probe(&stage);
    let during = Usage::of(stage.wayline.process.id(), false);
    if others != flood.others {
        wrong.push(format!(
            "others are answered {others}, not {}",
            flood.others
        ));
    }
    for stream in streams {
        let _gone = stream.shutdown(Shutdown::Both);
    }
    let peak = (during.peak - before.now).max(0.0);
    let allowed = if sent as f64 >= MIB {
        RATIO * sent as f64
    } else {
        PER_CONNECTION * flood.connections as f64
    };
    if peak > allowed {
        wrong.push(format!(
            "{sent} bytes took {peak} of memory, more than {allowed}"
        ));
    }
    let cpu_s = during.cpu_s - before.cpu_s;
    if flood.cpu_s.is_some_and(|limit| cpu_s > limit) {
        wrong.push(format!("it took {cpu_s} s of the processor"));
    }
    let mut left = f64::MAX;
    eventually_some(|| {
        left = Usage::of(stage.wayline.process.id(), false).now - before.now;
        left <= LEFT_OVER
    });
    if left > LEFT_OVER {
        wrong.push(format!("{left} bytes stay in memory"));
    }
    let name = format!("{} at {place:?}", flood.id);
    Cost {
        wrong: wrong.iter().map(|what| format!("{name}: {what}")).collect(),
        name,
        sent: sent as f64,
        peak,
        left: left.max(0.0),
        cpu_s,
    }
}

fn message(flood: &Flood, is_h2: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(raw) = &flood.raw {
        bytes.extend_from_slice(&unescape(raw));
    }
    if let Some(script) = &flood.frames {
        if is_h2 {
            bytes.extend_from_slice(&frames::greeting(flood.window));
        }
        bytes.extend_from_slice(&frames::script(script));
    }
    bytes
}

/// Sends everything, or as much as is taken; the connection and how much that was.
fn attack(to: SocketAddr, bytes: &[u8]) -> (Option<TcpStream>, usize) {
    let Ok(mut stream) = TcpStream::connect(to) else {
        return (None, 0);
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
    let mut written = 0;
    for piece in bytes.chunks(16 * 1024) {
        if stream.write_all(piece).is_err() {
            break;
        }
        written += piece.len();
    }
    (Some(stream), written)
}

fn ending(stream: &mut TcpStream, is_h2: bool, expected: &[String]) -> String {
    if expected.iter().any(|end| end == "OPEN") {
        // Whoever is still listened to gets an answer.
        let ping = frames::frame(6, 0, 0, b"are you?");
        if !is_h2 || stream.write_all(&ping).is_err() {
            return "OPEN".to_owned();
        }
        while let Some(got) = frames::read(stream) {
            if got.kind == 6 && got.payload == b"are you?" {
                return "OPEN".to_owned();
            }
        }
        return "CLOSED".to_owned();
    }
    if is_h2 {
        return frames::outcome(stream, 1).0;
    }
    let Ok(stream) = stream.try_clone() else {
        return "CLOSED".to_owned();
    };
    match Conversation::on(stream).answer() {
        Ok(answer) => answer.status.to_string(),
        Err(_) => "CLOSED".to_owned(),
    }
}

fn probe(stage: &Stage) -> u16 {
    let address = stage.address(Entrance::TunnelH1, "default/probe");
    let mut conversation = Conversation::open(address);
    conversation
        .exchange(&Request::get("/probe"))
        .map_or(0, |answer| answer.status)
}

fn eventually_some(mut probe: impl FnMut() -> bool) -> bool {
    for _ in 0..1200 {
        if probe() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    false
}

/// What a process takes.
struct Usage {
    now: f64,
    peak: f64,
    cpu_s: f64,
}

impl Usage {
    /// Reads it, and begins a new peak on demand.
    fn of(process: u32, anew: bool) -> Self {
        if anew {
            std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
        }
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib: f64 = line
                .and_then(|line| line.split_ascii_whitespace().nth(1))
                .and_then(|number| number.parse().ok())
                .unwrap();
            kib * 1024.0
        };
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let after = stat.rsplit_once(") ").unwrap().1;
        let ticks: f64 = after
            .split(' ')
            .skip(11)
            .take(2)
            .map(|number| number.parse::<f64>().unwrap())
            .sum();
        Self {
            now: field("VmRSS:"),
            peak: field("VmHWM:"),
            cpu_s: ticks / 100.0,
        }
    }
}

fn ok() -> u16 {
    200
}

fn one() -> usize {
    1
}
