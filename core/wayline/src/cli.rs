//! The command line. Settings of a process are flags, each mirrored by a `WAYLINE_*` variable; what
//! belongs to a single request (`curl`'s `-X`, `-H`, `-d`, `-o` …) has no such mirror, because a
//! forgotten variable would change every request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use wayline_model::{Identity, TrustDomain};

use crate::dump::DumpArgs;
use crate::explain::ExplainArgs;
use crate::logging::LogFormat;
use crate::modules::ModuleArgs;

/// A waypoint, ingress and egress proxy for Istio ambient mesh.
#[derive(Debug, Parser)]
#[command(
    name = "wayline",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Verb {
    /// Serve manifests: play the Gateways in them, and follow every change.
    Run(RunArgs),
    /// Sign a certificate with the development CA.
    Cert(CertArgs),
    /// Say what is wrong with manifests; exit 3 if anything changes what is served.
    Check(CheckArgs),
    /// Send a request into the mesh as a workload, through its waypoint.
    Curl(CurlArgs),
    /// Say what would happen to a request, and which policy and route decide.
    Explain(ExplainArgs),
    /// Write what a live proxy serves into a folder that `run -f` serves just so.
    Dump(DumpArgs),
    /// Show Bookinfo behind a waypoint and an ingress gateway, on this machine, until Ctrl-C.
    Demo(DemoArgs),
    /// Look at a WebAssembly filter.
    Wasm(WasmArgs),
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Flags of `wayline run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Manifest file or folder; may be given several times. Of two documents for one object the first counts.
    #[arg(
        short = 'f',
        long = "file",
        value_name = "PATH",
        required = true,
        env = "WAYLINE_FILE"
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Play these Gateways only [default: all of a class that Wayline serves].
    #[arg(
        long = "gateway",
        value_name = "NS/NAME",
        env = "WAYLINE_GATEWAY",
        value_delimiter = ','
    )]
    pub(crate) gateways: Vec<Namespaced>,
    /// Take certificates from the development CA in this folder; made when missing or empty.
    #[arg(long, value_name = "DIR", env = "WAYLINE_DEV_CA", value_hint = ValueHint::DirPath, conflicts_with = "identity_dir")]
    pub(crate) dev_ca: Option<PathBuf>,
    /// Folder with cert-chain.pem, key.pem and root-cert.pem, whose rotation is followed.
    #[arg(long, value_name = "DIR", env = "WAYLINE_IDENTITY_DIR", value_hint = ValueHint::DirPath)]
    pub(crate) identity_dir: Option<PathBuf>,
    /// Where waypoints take HBONE.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15008", env = "WAYLINE_HBONE", value_parser = address)]
    pub(crate) hbone: SocketAddr,
    /// Where the admin interface listens; it is not protected.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", env = "WAYLINE_ADMIN", value_parser = address)]
    pub(crate) admin: SocketAddr,
    /// Where /healthz/ready listens.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021", env = "WAYLINE_STATUS", value_parser = address)]
    pub(crate) status: SocketAddr,
    /// Where metrics are scraped.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15020", env = "WAYLINE_METRICS", value_parser = address)]
    pub(crate) metrics: SocketAddr,
    /// Worker threads [default: the cores this process may use].
    #[arg(long, value_name = "N", env = "WAYLINE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// How long what runs may take to finish after SIGTERM.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "28s",
        env = "WAYLINE_DRAIN_TIMEOUT"
    )]
    pub(crate) drain_timeout: Span,
    /// How long connections are still let in after readiness has failed; a quarter of the drain timeout
    /// at the most, and nothing when nobody is connected.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        env = "WAYLINE_DRAIN_DELAY"
    )]
    pub(crate) drain_delay: Span,
    /// How long the head of an HTTP/1 request may take; 0s: for ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "WAYLINE_HEAD_TIMEOUT"
    )]
    pub(crate) head_timeout: Span,
    /// How long clients may keep a connection without a request; 0s: for ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "WAYLINE_IDLE_TIMEOUT"
    )]
    pub(crate) idle_timeout: Span,
    /// How long nothing may happen to a request that is being served; 0s: for ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "WAYLINE_STREAM_IDLE_TIMEOUT"
    )]
    pub(crate) stream_idle_timeout: Span,
    /// The zone this process runs in, for Services whose trafficDistribution prefers what is close; that
    /// of the Node named by --node unless it is given.
    #[arg(
        long,
        value_name = "ZONE",
        default_value = "",
        hide_default_value = true,
        env = "WAYLINE_ZONE"
    )]
    pub(crate) zone: String,
    /// The node this process runs on, for the same.
    #[arg(
        long,
        value_name = "NODE",
        default_value = "",
        hide_default_value = true,
        env = "WAYLINE_NODE"
    )]
    pub(crate) node: String,
    /// How long a client may take none of what it is sent; 0s: for ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "WAYLINE_SEND_TIMEOUT"
    )]
    pub(crate) send_timeout: Span,
    /// How long connections of tunnels take new streams once their client's certificate has ended; 0s: for
    /// ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "WAYLINE_CERTIFICATE_GRACE"
    )]
    pub(crate) certificate_grace: Span,
    /// How much peers may ask of us at once.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) modules: ModuleArgs,
    /// What is logged, e.g. `info` or `info,wayline_proxy=debug` [default: RUST_LOG, else info].
    #[arg(long, value_name = "FILTER", env = "WAYLINE_LOG")]
    pub(crate) log: Option<String>,
    /// How log lines are written [default: text on a terminal, else json].
    #[arg(long, value_name = "FORMAT", env = "WAYLINE_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// Limits of `wayline run`; 0 means none.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (0: none)")]
pub(crate) struct LimitArgs {
    /// Client connections [default: half of the files this process may open].
    #[arg(long, value_name = "N", env = "WAYLINE_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<usize>,
    /// HBONE connections of one identity [default: half of --max-connections].
    #[arg(long, value_name = "N", env = "WAYLINE_MAX_CONNECTIONS_PER_IDENTITY")]
    pub(crate) max_connections_per_identity: Option<usize>,
    /// TLS handshakes under way.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::default().max_handshakes,
        env = "WAYLINE_MAX_HANDSHAKES"
    )]
    pub(crate) max_handshakes: usize,
    /// Streams on one HTTP/2 connection; at least 1.
    #[arg(long, value_name = "N", default_value_t = Self::default().max_streams, env = "WAYLINE_MAX_STREAMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_streams: u32,
    /// Bytes of request heads in memory; beyond it requests are answered 503.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Self::default().max_head_bytes,
        env = "WAYLINE_MAX_HEAD_BYTES"
    )]
    pub(crate) max_head_bytes: usize,
    /// The same of one connection.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Self::default().max_head_bytes_per_connection,
        env = "WAYLINE_MAX_HEAD_BYTES_PER_CONNECTION"
    )]
    pub(crate) max_head_bytes_per_connection: usize,
    /// HTTP/2 frames that carry nothing, on one connection in 10 s.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::default().max_control_frames,
        env = "WAYLINE_MAX_CONTROL_FRAMES"
    )]
    pub(crate) max_control_frames: u32,
    /// HTTP/2 streams reset, on one connection in a minute; tunnels may be given up three times as often.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::default().max_resets,
        env = "WAYLINE_MAX_RESETS"
    )]
    pub(crate) max_resets: u32,
    /// Bytes a second that a request body of known length must come with.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Self::default().min_body_rate,
        env = "WAYLINE_MIN_BODY_RATE"
    )]
    pub(crate) min_body_rate: u32,
}

impl Default for LimitArgs {
    fn default() -> Self {
        let limits = wayline_proxy::Limits::default();
        Self {
            max_connections: None,
            max_connections_per_identity: None,
            max_handshakes: limits.handshakes,
            max_streams: limits.streams,
            max_head_bytes: limits.head_bytes,
            max_head_bytes_per_connection: limits.head_bytes_per_connection,
            max_control_frames: limits.frames.control,
            max_resets: limits.frames.resets,
            min_body_rate: limits.body_rate,
        }
    }
}

/// Flags of `wayline cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    /// Folder of the development CA; made when missing or empty.
    #[arg(long, value_name = "DIR", env = "WAYLINE_DEV_CA", value_hint = ValueHint::DirPath)]
    pub(crate) dev_ca: PathBuf,
    /// Who the certificate is for: spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
    #[arg(long, value_name = "SPIFFE", env = "WAYLINE_IDENTITY")]
    pub(crate) identity: Identity,
    /// Folder for cert-chain.pem, key.pem and root-cert.pem; made when missing.
    #[arg(long, value_name = "DIR", env = "WAYLINE_OUT", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// How long the certificate is valid, e.g. 90m [default: 24h].
    #[arg(long, value_name = "TIME", env = "WAYLINE_LIFETIME")]
    pub(crate) lifetime: Option<Span>,
}

/// Flags of `wayline check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Manifest file or folder; may be given several times. Of two documents for one object the first counts.
    #[arg(
        short = 'f',
        long = "file",
        value_name = "PATH",
        required = true,
        env = "WAYLINE_FILE"
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Check for these Gateways only [default: all of a class that Wayline serves].
    #[arg(
        long = "gateway",
        value_name = "NS/NAME",
        env = "WAYLINE_GATEWAY",
        value_delimiter = ','
    )]
    pub(crate) gateways: Vec<Namespaced>,
    /// How to print the findings.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "human",
        env = "WAYLINE_OUTPUT"
    )]
    pub(crate) output: Format,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// For programs: JSON with a kind, versioned.
    Json,
}

/// Flags of `wayline curl`.
#[derive(Debug, Args)]
pub(crate) struct CurlArgs {
    /// Folder of the development CA; made when missing or empty.
    #[arg(long, value_name = "DIR", env = "WAYLINE_DEV_CA", value_hint = ValueHint::DirPath)]
    pub(crate) dev_ca: PathBuf,
    /// Namespace and service account of the workload to be.
    #[arg(long, value_name = "NS/SA", env = "WAYLINE_FROM")]
    pub(crate) from: Namespaced,
    /// Address of the waypoint.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:15008",
        env = "WAYLINE_VIA"
    )]
    pub(crate) via: SocketAddr,
    /// Trust domain of the workload.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "WAYLINE_TRUST_DOMAIN", value_parser = TrustDomain::parse)]
    pub(crate) trust_domain: TrustDomain,
    /// Method [default: GET, or POST with --data].
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) request: Option<http::Method>,
    /// Header, as `Name: value`; `Name:` removes one that is sent by default.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Body; `@FILE` reads a file and `@-` standard input.
    #[arg(
        short = 'd',
        long = "data",
        value_name = "DATA",
        allow_hyphen_values = true
    )]
    pub(crate) data: Vec<String>,
    /// Print the response's head as well.
    #[arg(short, long)]
    pub(crate) include: bool,
    /// Say nothing on errors.
    #[arg(short, long)]
    pub(crate) silent: bool,
    /// Write the body to a file.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// http://<service>[.<namespace>][:port]/path, or http://<ip>:<port>/path.
    #[arg(value_hint = ValueHint::Url)]
    pub(crate) url: String,
}

/// Flags of `wayline demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Show it once and end; exit 1 if split or denials are not as configured.
    #[arg(long, env = "WAYLINE_ONCE")]
    pub(crate) once: bool,
    /// What the proxy logs, e.g. `info` [default: warnings].
    #[arg(long, value_name = "FILTER", env = "WAYLINE_LOG")]
    pub(crate) log: Option<String>,
}

/// Flags of `wayline wasm`.
#[derive(Debug, Args)]
pub(crate) struct WasmArgs {
    #[command(subcommand)]
    pub(crate) verb: WasmVerb,
}

/// What to do with a filter.
#[derive(Debug, Subcommand)]
pub(crate) enum WasmVerb {
    /// Say what a module offers and wants, and how long it compiles; exit 3 if it could not be hosted.
    Inspect(Box<InspectArgs>),
    /// Show what a filter does to one request and its response, without a proxy.
    Run(Box<TrialArgs>),
    /// Be the compiler of another `wayline`: a module comes in on stdin, code goes out on stdout.
    #[command(hide = true)]
    CompileModule(CompileArgs),
}

/// Flags of `wayline wasm compile-module`.
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// CPU time it may take, in seconds.
    #[arg(long, value_name = "N")]
    pub(crate) cpu_seconds: u64,
    /// Bytes of address space that it may take.
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: u64,
}

/// Flags of `wayline wasm run`.
#[derive(Debug, Args)]
pub(crate) struct TrialArgs {
    /// The module, as built for wasm32-wasip1.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// pluginConfig of the WasmPlugin, as JSON; `@FILE` reads a file.
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// pluginName of the WasmPlugin [default: the file's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) plugin_name: Option<String>,
    /// Method and path of the request.
    #[arg(long, value_name = "METHOD PATH", default_value = "GET /")]
    pub(crate) request: String,
    /// Host and port that the client asks for.
    #[arg(long, value_name = "HOST", default_value = "backend.test")]
    pub(crate) host: String,
    /// Header of the request, as `Name: value`.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Body of the request; `@FILE` reads a file.
    #[arg(long, value_name = "DATA")]
    pub(crate) body: Option<String>,
    /// Who calls, as spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
    #[arg(long, value_name = "SPIFFE")]
    pub(crate) identity: Option<Identity>,
    /// Status of the backend's response.
    #[arg(long, value_name = "STATUS", default_value = "200")]
    pub(crate) response_status: http::StatusCode,
    /// Header of the backend's response, as `Name: value`.
    #[arg(long = "response-header", value_name = "HEADER")]
    pub(crate) response_headers: Vec<String>,
    /// Body of the backend's response; `@FILE` reads a file.
    #[arg(long, value_name = "DATA")]
    pub(crate) response_body: Option<String>,
    #[command(flatten)]
    pub(crate) modules: ModuleArgs,
    /// How to print what happened.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "human",
        env = "WAYLINE_OUTPUT"
    )]
    pub(crate) output: Format,
}

/// Flags of `wayline wasm inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The module, as built for wasm32-wasip1: a file, or a URL as in a WasmPlugin (file://, http://,
    /// https://, oci://).
    #[arg(value_name = "FILE|URL", value_hint = ValueHint::FilePath)]
    pub(crate) module: String,
    /// The digest it must have: of the module, or of the image's manifest.
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// File with a .dockerconfigjson, as in a pull secret.
    #[arg(long, value_name = "FILE", env = "WAYLINE_PULL_SECRET", value_hint = ValueHint::FilePath)]
    pub(crate) pull_secret: Option<PathBuf>,
    /// Ask the server though the cache has the module.
    #[arg(long)]
    pub(crate) pull: bool,
    #[command(flatten)]
    pub(crate) modules: ModuleArgs,
    /// How to print what is found.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "human",
        env = "WAYLINE_OUTPUT"
    )]
    pub(crate) output: Format,
}

/// `ip:port`, or `:port` and `port` for every address of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.strip_prefix(':').unwrap_or(text).parse();
    port.map(|port| SocketAddr::from(([0, 0, 0, 0], port)))
        .map_err(|_| "expected an address such as 127.0.0.1:15008 or :15008".to_owned())
}

/// A namespace and a name in it, `NS/NAME`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Namespaced {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FromStr for Namespaced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("expected NAMESPACE/NAME, e.g. default/productpage".to_owned()),
        }
    }
}

impl From<Namespaced> for (String, String) {
    fn from(it: Namespaced) -> Self {
        (it.namespace, it.name)
    }
}

/// A span of time as people write it: `28s`, `1m30s`, `500ms`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || "expected a time such as 28s, 1m30s or 500ms".to_owned();
        let span: jiff::SignedDuration = text.parse().map_err(|_| refused())?;
        Duration::try_from(span).map(Self).map_err(|_| refused())
    }
}

impl From<Duration> for Span {
    fn from(span: Duration) -> Self {
        Self(span)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_and_times_are_read_strictly() {
        assert!("a/b".parse::<Namespaced>().is_ok());
        for bad in ["a", "/b", "a/", "a/b/c", ""] {
            assert!(bad.parse::<Namespaced>().is_err(), "{bad}");
        }
        assert_eq!(address(":80").unwrap(), address("0.0.0.0:80").unwrap());
        assert_eq!(address("[::1]:80").unwrap().port(), 80);
        for bad in ["", ":", "host:80", "1.2.3.4", ":70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!("1m30s".parse::<Span>().unwrap().0.as_secs(), 90);
        assert_eq!("500ms".parse::<Span>().unwrap().0.as_millis(), 500);
        for bad in ["", "28", "-5s", "soon"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
