//! The attack catalogue: what the files under `tests/attacks` say, and how they are replayed.
//!
//! A file holds the cases of one group; each case names a scene (policies and settings), what is sent,
//! the entrances it is sent at, and what must come of it: the answer, and what the backend may see.
//! Nothing about an attack is written in Rust. This room refuses to know what Wayline does about any of
//! it; the format is described in `tests/attacks/README.md`.

mod bytes;
mod flood;
mod frames;
mod mint;
mod modules;
mod recorder;
mod replay;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

pub use flood::{Cost, Flood, flood, flood_without};
pub use mint::{Key, Token};
pub use modules::HostileModule;
pub use recorder::{Recorder, Seen};
pub use replay::{Verdict, replay, replay_without};
pub use stage::Stage;

/// Whether a program can be told to leave a defence out.
#[must_use]
pub fn has_switch(program: &Path) -> bool {
    let bytes = std::fs::read(program).expect("the program is there");
    let switch = b"WAYLINE_DEFENCE_OFF";
    bytes.windows(switch.len()).any(|window| window == switch)
}

/// One file of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The group's letter.
    pub group: String,
    /// What it is about.
    pub about: String,
    /// Scenes by name.
    #[serde(default, rename = "scene")]
    pub scenes: BTreeMap<String, Scene>,
    /// Cases in order.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
    /// Attacks by amount.
    #[serde(default, rename = "flood")]
    pub floods: Vec<Flood>,
    /// Keys that are made for it, by name.
    #[serde(default, rename = "key")]
    pub keys: BTreeMap<String, Key>,
    /// Tokens that texts name.
    #[serde(default, rename = "token")]
    pub tokens: BTreeMap<String, Token>,
}

/// Policies and settings under which cases are replayed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scene {
    /// More of MeshConfig, as YAML.
    pub mesh: String,
    /// Annotations of MeshConfig's ConfigMap.
    pub annotations: BTreeMap<String, String>,
    /// Specs of AuthorizationPolicies, without `targetRefs`: each is attached to the service behind
    /// the waypoint and to the Gateway.
    pub policies: Vec<String>,
    /// Specs of RequestAuthentications, without `targetRefs`, attached likewise.
    pub authentication: Vec<String>,
    /// Further servers: by host of the mesh, by target, what is answered, as bytes.
    pub servers: BTreeMap<String, BTreeMap<String, String>>,
    /// Documents of any kind, as YAML.
    pub documents: String,
    /// Rules of the route at the Gateway, as YAML; everything goes to the backend by default.
    pub rules: Option<String>,
    /// More flags of `wayline run`.
    pub args: Vec<String>,
}

/// One attack, in one or more spellings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Names it: group letter, number, and what tells it from its siblings.
    pub id: String,
    /// What an attacker hopes for, and what happens.
    pub what: String,
    /// Where it was seen first.
    #[serde(default)]
    pub source: Option<String>,
    /// The scene; `open` lets everything pass.
    #[serde(default = "open")]
    pub scene: String,
    /// The caller's `namespace/account` at tunnels.
    #[serde(default = "caller")]
    pub from: String,
    /// Where it is replayed; wherever its spelling can be written by default.
    #[serde(default)]
    pub on: Vec<Entrance>,
    /// Requests in any version of HTTP: `METHOD target`, header lines, an empty line, a body.
    #[serde(default)]
    pub send: Vec<String>,
    /// Bytes on an HTTP/1 connection.
    #[serde(default)]
    pub raw: Vec<String>,
    /// Fields of an HTTP/2 request, a line each.
    #[serde(default)]
    pub fields: Vec<String>,
    /// Frames on an HTTP/2 connection, a line each.
    #[serde(default)]
    pub frames: Vec<String>,
    /// Paths, and what becomes of each in the modes NONE, BASE, MERGE_SLASHES and
    /// DECODE_AND_MERGE_SLASHES: a status, or the path that the backend gets (`=`: the one sent).
    #[serde(default)]
    pub paths: Vec<Vec<Cell>>,
    /// Every escape from %01 to %ff behind this prefix: decoded if unreserved, or a slash in the last
    /// mode, else kept.
    #[serde(default)]
    pub escapes_behind: Option<String>,
    /// How often each is sent.
    #[serde(default = "once")]
    pub times: usize,
    /// What the backend answers, as bytes.
    #[serde(default)]
    pub reply: Option<String>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
    /// What must come of it at some entrances, named like an entrance or like one of its halves.
    #[serde(default)]
    pub at: BTreeMap<String, Expect>,
    /// The defence without which the case fails.
    #[serde(default)]
    pub defence: Option<String>,
}

/// A cell of the table of paths.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A status, and nothing at the backend.
    Status(u16),
    /// A path.
    Path(String),
}

/// What must come of a case.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// How it ends, any of these: a status or several in order (`200 400`), `RST <code>`,
    /// `GOAWAY <code>`, `CLOSED`.
    pub ends: Vec<String>,
    /// Complete requests that the backend sees (`METHOD target`); by default none unless the first
    /// answer is 200, and not looked at then.
    pub backend: Option<Vec<String>>,
    /// Header lines each request at the backend has.
    pub backend_has: Vec<String>,
    /// Header names, or whole header lines, that no request at the backend has.
    pub backend_lacks: Vec<String>,
    /// The body that the backend got.
    pub backend_body: Option<String>,
    /// Header lines of the first answer.
    pub answer_has: Vec<String>,
    /// Header names, or whole header lines, that no answer has.
    pub answer_lacks: Vec<String>,
    /// Words in the access log.
    pub logged: Vec<String>,
    /// Words that are neither in the log of the process nor in its access log.
    pub never_said: Vec<String>,
    /// How many lines a scrape may have gained since the case began.
    pub series: Option<usize>,
    /// What further servers of the scene were asked since it began, by host.
    pub asked: BTreeMap<String, Vec<String>>,
}

/// Where requests come in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    /// A gateway's port, HTTP/1.
    GatewayH1,
    /// A gateway's port, HTTP/2.
    GatewayH2,
    /// A stream of an HBONE connection, HTTP/1 inside.
    TunnelH1,
    /// A stream of an HBONE connection, HTTP/2 inside.
    TunnelH2,
}

impl Entrance {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::GatewayH1,
        Self::GatewayH2,
        Self::TunnelH1,
        Self::TunnelH2,
    ];

    /// Whether HTTP/2 is spoken.
    #[must_use]
    pub fn is_h2(self) -> bool {
        matches!(self, Self::GatewayH2 | Self::TunnelH2)
    }

    /// Whether it is inside a tunnel.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::TunnelH1 | Self::TunnelH2)
    }

    /// Names by which files may mean it, the most exact first.
    #[must_use]
    pub fn names(self) -> [&'static str; 3] {
        match self {
            Self::GatewayH1 => ["gateway-h1", "gateway", "h1"],
            Self::GatewayH2 => ["gateway-h2", "gateway", "h2"],
            Self::TunnelH1 => ["tunnel-h1", "tunnel", "h1"],
            Self::TunnelH2 => ["tunnel-h2", "tunnel", "h2"],
        }
    }
}

impl Case {
    /// What must come of it at an entrance.
    #[must_use]
    pub fn expected_at(&self, entrance: Entrance) -> &Expect {
        entrance
            .names()
            .iter()
            .find_map(|name| self.at.get(*name))
            .unwrap_or(&self.expect)
    }

    /// Whether it is replayed there.
    #[must_use]
    pub fn is_for(&self, entrance: Entrance) -> bool {
        self.on.is_empty() || self.on.contains(&entrance)
    }
}

impl Group {
    /// Reads a file of the catalogue.
    ///
    /// # Panics
    /// When it is not there or says what the format does not know.
    #[must_use]
    pub fn read(letter: &str) -> Self {
        let file = folder().join(format!("{letter}.toml"));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let group: Self =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for case in &group.cases {
            let known = case.scene == "open" || group.scenes.contains_key(&case.scene);
            assert!(known, "{}: there is no scene {}", case.id, case.scene);
            for name in case.at.keys() {
                let known = Entrance::ALL.iter().any(|e| e.names().contains(&&**name));
                assert!(known, "{}: there is no entrance {name}", case.id);
            }
        }
        group
    }

    /// All groups of the catalogue, by letter.
    ///
    /// # Panics
    /// When one of them can not be read.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let files = std::fs::read_dir(folder()).unwrap();
        let mut letters: Vec<String> = files
            .filter_map(|file| file.unwrap().file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
            // Hostile modules are a catalogue of their own.
            .filter(|name| name.len() == 1)
            .collect();
        letters.sort();
        letters.iter().map(|letter| Self::read(letter)).collect()
    }

    /// The scene of a case.
    #[must_use]
    pub fn scene(&self, name: &str) -> Scene {
        self.scenes.get(name).cloned().unwrap_or_default()
    }
}

/// The folder of the catalogue.
#[must_use]
pub fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks")
}

fn open() -> String {
    "open".to_owned()
}

fn once() -> usize {
    1
}

fn caller() -> String {
    "default/a".to_owned()
}
