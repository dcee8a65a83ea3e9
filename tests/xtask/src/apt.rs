//! Debian packages in a folder of their own, without touching the system: apt-get with private
//! configuration, lists and cache, `dpkg-deb -x`, and the packages' own loader to start them.
//!
//! Where packages come from is read from the machine's apt configuration, never written down here.
//! Needs no root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Error, at};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian that this machine runs.
pub(crate) struct Debian {
    /// Name of the release, as `bookworm`.
    pub(crate) codename: String,
    /// Address of the package archive, of any kind that apt understands.
    archive: String,
}

impl Debian {
    /// Reads release and archive from `/etc/os-release` and apt's configuration.
    pub(crate) fn of_this_machine() -> Result<Self, Error> {
        let path = Path::new("/etc/os-release");
        let text = std::fs::read_to_string(path).map_err(|_| not_debian("it has no os-release"))?;
        if os_release(&text, "ID") != Some("debian") {
            return Err(not_debian(
                os_release(&text, "PRETTY_NAME").unwrap_or("something else"),
            ));
        }
        let codename = os_release(&text, "VERSION_CODENAME")
            .ok_or_else(|| not_debian("a Debian without VERSION_CODENAME"))?
            .to_owned();
        let mut targets = Command::new("apt-get");
        targets.args(["--no-release-info", "indextargets", "--format"]);
        targets.arg("$(RELEASE)|$(COMPONENT)|$(REPO_URI)");
        let output = process::run(&mut targets)?;
        let archive = archive_of(&String::from_utf8_lossy(&output.stdout), &codename)
            .ok_or_else(|| Error::Missing {
                what: format!("no package source for {codename} in /etc/apt"),
                remedy: "configure one, as for any `apt-get install`".to_owned(),
            })?
            .to_owned();
        Ok(Self { codename, archive })
    }

    /// Unpacks `packages` and all they depend on, down to libc, below `root`. The first of `suites`
    /// has preference; all must be complete together.
    pub(crate) fn unpack(
        &self,
        suites: &[&str],
        packages: &[&str],
        root: &Path,
    ) -> Result<(), Error> {
        self.unpack_without(&[], suites, packages, root)
    }

    /// As [`Self::unpack`], but leaves out `unneeded` and what only they depend on.
    pub(crate) fn unpack_without(
        &self,
        unneeded: &[&str],
        suites: &[&str],
        packages: &[&str],
        root: &Path,
    ) -> Result<(), Error> {
        let private = root.join(".apt");
        let config = self.write_config(suites, &private)?;
        // apt leaves out what it takes to be installed already, in any version.
        let installed: String = unneeded
            .iter()
            .map(|package| {
                format!(
                    "Package: {package}\nStatus: install ok installed\nArchitecture: all\n\
                     Version: 999:0\nMaintainer: none\nDescription: none\n\n"
                )
            })
            .collect();
        let status = private.join("status");
        std::fs::write(&status, installed).map_err(at("write", &status))?;
        let apt = || {
            let mut command = Command::new("apt-get");
            command
                .env("APT_CONFIG", &config)
                .args(["--quiet=2", "--yes"]);
            command
        };
        process::run(apt().arg("update"))?;
        let mut install = apt();
        install.args(["install", "--download-only", "--no-install-recommends"]);
        install.args(["--target-release", suites[0]]).args(packages);
        process::run(&mut install)?;

        let archives = private.join("cache/archives");
        for entry in std::fs::read_dir(&archives).map_err(at("read", &archives))? {
            let package = entry.map_err(at("read", &archives))?.path();
            if package
                .extension()
                .is_some_and(|extension| extension == "deb")
            {
                process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
            }
        }
        std::fs::remove_dir_all(&private).map_err(at("remove", &private))
    }

    /// Writes an apt configuration that keeps how the machine reaches its archive (proxies,
    /// certificates) and nothing else: hooks of the system must not run.
    fn write_config(&self, suites: &[&str], private: &Path) -> Result<PathBuf, Error> {
        for dir in ["lists/partial", "cache/archives/partial", "state"] {
            process::make_dir(&private.join(dir))?;
        }
        let signed = if Path::new(KEYRING).is_file() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb {signed}{} {suite} main\n", self.archive))
            .collect();
        let dump = process::run(Command::new("apt-config").arg("dump"))?;
        let dump = String::from_utf8_lossy(&dump.stdout);
        let inherited: String = dump
            .lines()
            .filter(|line| line.starts_with("Acquire::"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let at_root = private.display();
        let config = format!(
            "{inherited}\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{at_root}/sources.list\";\n\
             Dir::State \"{at_root}/state\";\n\
             Dir::State::lists \"{at_root}/lists\";\n\
             Dir::State::status \"{at_root}/status\";\n\
             Dir::Cache \"{at_root}/cache\";\n\
             APT::Sandbox::User \"\";\n\
             Debug::NoLocking \"true\";\n"
        );
        let path = private.join("apt.conf");
        for (file, text) in [
            (path.clone(), config),
            (private.join("sources.list"), sources),
        ] {
            std::fs::write(&file, text).map_err(at("write", &file))?;
        }
        Ok(path)
    }
}

/// The dynamic loader among unpacked packages, by which their programs run on a machine whose own
/// libraries are older.
pub(crate) struct Loader {
    /// Path of the loader below the root.
    path: PathBuf,
    /// Folders with libraries below the root.
    libraries: Vec<PathBuf>,
}

impl Loader {
    /// Finds the loader below `root`.
    pub(crate) fn find(root: &Path) -> Result<Self, Error> {
        let mut libraries = Vec::new();
        let mut path = None;
        for parent in ["usr/lib", "lib"] {
            let Ok(entries) = std::fs::read_dir(root.join(parent)) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let triplet = Path::new(parent).join(entry.file_name());
                let Ok(files) = std::fs::read_dir(root.join(&triplet)) else {
                    continue;
                };
                path = path.or_else(|| {
                    let mut names = files.filter_map(Result::ok).map(|file| file.file_name());
                    let name = names.find(|name| name.to_string_lossy().starts_with("ld-linux"))?;
                    Some(triplet.join(name))
                });
                if triplet.to_string_lossy().ends_with("-linux-gnu") {
                    libraries.push(triplet);
                }
            }
            libraries.push(parent.into());
        }
        let path = path.ok_or_else(|| Error::Missing {
            what: format!("no dynamic loader among the packages in {}", root.display()),
            remedy: "remove tests/.tools and run `cargo xtask tools` again".to_owned(),
        })?;
        Ok(Self { path, libraries })
    }

    /// A shell script that runs `program` below `root` with its own libraries, with `first_args`
    /// before those that the script is given. `root` and `first_args` are shell text; the latter
    /// may say `$root`.
    pub(crate) fn script(&self, root: &str, program: &str, first_args: &[&str]) -> String {
        let args = first_args
            .iter()
            .chain(&["\"$@\""])
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        let libraries: Vec<String> = self
            .libraries
            .iter()
            .map(|dir| format!("$root/{}", dir.display()))
            .collect();
        format!(
            "#!/bin/sh\n\
             # Written by `cargo xtask`: a Debian program with the libraries it was built for.\n\
             root={root}\n\
             exec \"$root/{loader}\" --library-path \"{libraries}\" --argv0 \"$root/{program}\" \
             \"$root/{program}\" {args}\n",
            loader = self.path.display(),
            libraries = libraries.join(":"),
        )
    }
}

fn not_debian(found: &str) -> Error {
    Error::Missing {
        what: format!("packages can be fetched on Debian only, and this is {found}"),
        remedy: "install the program by hand".to_owned(),
    }
}

fn os_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"'))
}

/// The archive of `codename` among lines `release|component|address`; a machine may also call its
/// release by its current rank.
fn archive_of<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    let find = |release: &str| {
        targets.lines().find_map(|line| {
            let mut fields = line.splitn(3, '|');
            let found = fields.next()? == release && fields.next()? == "main";
            fields.next().filter(|_| found)
        })
    };
    [codename, "stable", "oldstable", "oldoldstable"]
        .into_iter()
        .find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_that_of_the_running_release() {
        let targets = "bookworm-security|main|http://a.test/security/\n\
                       bookworm|contrib|http://a.test/contrib/\n\
                       bookworm|main|http://a.test/debian/\n\
                       trixie|main|http://b.test/debian/\n";
        assert_eq!(
            archive_of(targets, "bookworm"),
            Some("http://a.test/debian/")
        );
        assert_eq!(archive_of(targets, "trixie"), Some("http://b.test/debian/"));
        assert_eq!(archive_of(targets, "forky"), None);
        assert_eq!(
            archive_of("oldstable|main|http://c.test/\n", "x"),
            Some("http://c.test/")
        );
    }

    #[test]
    fn os_release_values_lose_their_quotes_and_keys_match_whole() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_release(text, "ID"), Some("debian"));
        assert_eq!(os_release(text, "PRETTY_NAME"), Some("Debian GNU/Linux 12"));
        assert_eq!(os_release(text, "VERSION_CODENAME"), None);
    }

    #[test]
    fn scripts_start_the_program_by_the_loader_beside_it() {
        let dir = std::env::temp_dir().join(format!("xtask-loader-{}", std::process::id()));
        let lib = dir.join("usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("ld-linux-x86-64.so.2"), "").unwrap();
        let script = Loader::find(&dir)
            .unwrap()
            .script("/r", "usr/bin/curl", &[]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(
            script.contains("exec \"$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\""),
            "{script}"
        );
        assert!(
            script.contains("\"$root/usr/lib/x86_64-linux-gnu:$root/usr/lib\""),
            "{script}"
        );
    }
}
