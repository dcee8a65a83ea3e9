//! A real Zipkin server, to look at our spans with somebody else's eyes: its executable jar from
//! Maven Central, fetched by the machine's own Maven so that its mirror and proxy settings hold.
//! It needs Java and 130 MB, so it comes only when asked for.

use std::path::Path;
use std::process::Command;

use crate::process::{self, Error};
use crate::tools::Tools;

const VERSION: &str = "3.5.1";

/// The oldest Java that runs it.
const JAVA: u32 = 17;

const SHA256: &str = "7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d";

/// Maven's plugin for fetching one artifact.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";

/// Provides `bin/zipkin`.
pub(crate) fn install() -> Result<(), Error> {
    let tools = Tools::open()?;
    let name = format!("zipkin-{VERSION}");
    let bin = tools.bin("zipkin");
    check_java()?;
    if tools.dir(&name).is_dir() && bin.is_file() {
        eprintln!("tools: zipkin {VERSION} is ready");
        return Ok(());
    }
    eprintln!("tools: fetching zipkin {VERSION} by Maven (130 MB)");
    tools.install(&name, |staging| {
        fetch(staging)?;
        let jar = format!("zipkin-server-{VERSION}-exec.jar");
        check_digest(&staging.join(&jar))?;
        let script = format!(
            "#!/bin/sh\nexec java -Xmx256m -jar \"$(dirname \"$(readlink -f \"$0\")\")/{jar}\" \"$@\"\n"
        );
        process::write_script(&staging.join("zipkin"), &script)
    })?;
    tools.link("zipkin", &Path::new("..").join(name).join("zipkin"))
}

fn check_java() -> Result<(), Error> {
    let missing = |what: String| Error::Missing {
        what,
        remedy: format!(
            "install Java {JAVA} or later and Maven (Debian: apt-get install default-jre-headless maven)"
        ),
    };
    if process::find_on_path("mvn").is_none() {
        return Err(missing(
            "Zipkin is fetched by Maven, and there is none".to_owned(),
        ));
    }
    let output = process::run(Command::new("java").arg("-version"))
        .map_err(|error| missing(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.split('"').nth(1).unwrap_or_default();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= JAVA => Ok(()),
        _ => Err(missing(format!(
            "Zipkin needs Java {JAVA}; this is `{version}`"
        ))),
    }
}

fn fetch(into: &Path) -> Result<(), Error> {
    let mut maven = Command::new("mvn");
    maven
        .args(["--quiet", "--batch-mode", "--strict-checksums", COPY])
        .arg(format!(
            "-Dartifact=io.zipkin:zipkin-server:{VERSION}:jar:exec"
        ))
        .arg(format!("-DoutputDirectory={}", into.display()))
        .current_dir(into);
    process::run(&mut maven)
        .map(drop)
        .map_err(|error| Error::Missing {
            what: format!("cannot fetch zipkin-server {VERSION} from a Maven repository: {error}"),
            remedy: "let Maven reach Maven Central or a mirror of it (~/.m2/settings.xml)"
                .to_owned(),
        })
}

fn check_digest(jar: &Path) -> Result<(), Error> {
    let output = process::run(Command::new("sha256sum").arg("--binary").arg(jar))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.starts_with(SHA256) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!(
            "{} is not the zipkin-server {VERSION} we know",
            jar.display()
        ),
        remedy: "see what the Maven repository serves under that name".to_owned(),
    })
}
