//! A compose file, read for the mistakes that lose data or open a door.
//!
//! The file comes in as a value; reading it is the caller's business. Services are known by their image's name, so a service with an image
//! of its own name is passed over. Substitution is followed as far as `${NAME:-default}`; what only the environment knows stays unknown
//! and is not judged.
//!
//! Sources: the official images' documentation (docker-library: `postgres` since 18 keeps its data below `/var/lib/postgresql/<major>`,
//! `mongo` in `/data/db`, `redis` in `/data`); compose specification, "ports" and "volumes" in short and long form.

use std::collections::BTreeMap;

use mainstay_model::{Finding, Severity, StoreKind};
use serde_json::Value;

use crate::key_policy::{DeclaredPolicy, StartCommand};

/// A service of the file, as far as it matters here.
struct Service<'a> {
    kind: StoreKind,
    subject: String,
    image: String,
    command: String,
    definition: &'a Value,
}

/// Examines a compose file. `name` names it in findings. What is not a compose file gives one finding that says so.
pub fn examine(file: &Value, name: &str) -> Vec<Finding> {
    let Some(services) = file.get("services").and_then(Value::as_object) else {
        return vec![Finding {
            id: "compose.no_services".to_owned(),
            severity: Severity::Warning,
            store: None,
            subject: name.to_owned(),
            message: "the file has no services".to_owned(),
            remedy: "name the right file with `--compose FILE` or `file` in [compose]".to_owned(),
        }];
    };
    let services =
        services.iter().filter_map(|(service, definition)| read_service(name, service, definition));
    services.flat_map(|service| examine_service(&service)).collect()
}

/// Whether the place where the running PostgreSQL says it keeps its data lies on something lasting. Says nothing unless the file has exactly
/// one PostgreSQL and the place can be one inside its container, for the server that was asked may be another one.
pub fn data_on_volume(file: &Value, name: &str, data_directory: &str) -> Option<Finding> {
    let services = file.get("services").and_then(Value::as_object)?;
    let mut found = services
        .iter()
        .filter_map(|(service, definition)| read_service(name, service, definition))
        .filter(|service| service.kind == StoreKind::Postgres);
    let (service, None) = (found.next()?, found.next()) else { return None };
    let own_folder = service.variable("PGDATA").filter(|folder| !folder.is_empty());
    let is_inside = match &own_folder {
        Some(folder) => folder.trim_end_matches('/') == data_directory,
        None => data_directory.starts_with("/var/lib/postgresql/"),
    };
    let mounts = service.mounts();
    let is_lasting = mounts
        .iter()
        .any(|mount| data_directory == mount || data_directory.starts_with(&format!("{mount}/")));
    if !is_inside || is_lasting {
        return None;
    }
    let mounted = match mounts.is_empty() {
        true => "nothing is mounted".to_owned(),
        false => format!("what is mounted is {}", mounts.join(", ")),
    };
    Some(service.finding(
        "postgres_data_not_on_volume",
        Severity::Critical,
        format!(
            "the server keeps its data in {data_directory}, and {mounted}: the data goes with the container"
        ),
        "back it up now, mount the volume at /var/lib/postgresql, and restore",
    ))
}

/// How the file starts its Redis. Says nothing unless the file has exactly one, for the server that was asked may be another one. Of
/// options only those that [`DeclaredPolicy`] can declare are told: others may hold a password.
pub fn redis_start(file: &Value, name: &str) -> Option<StartCommand> {
    let services = file.get("services").and_then(Value::as_object)?;
    let mut found = services
        .iter()
        .filter_map(|(service, definition)| read_service(name, service, definition))
        .filter(|service| service.kind == StoreKind::Redis);
    let (service, None) = (found.next()?, found.next()) else { return None };
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut option: Option<&str> = None;
    for word in service.command.split_whitespace() {
        if let Some(name) = word.strip_prefix("--") {
            option = DeclaredPolicy::NAMES.into_iter().find(|known| *known == name);
            options.extend(option.map(|name| (name.to_owned(), String::new())));
        } else if let Some(value) = option.and_then(|name| options.get_mut(name)) {
            let gap = if value.is_empty() { "" } else { " " };
            value.push_str(&format!("{gap}{word}"));
        }
    }
    Some(StartCommand {
        place: service.subject.clone(),
        options,
        config_file: service
            .command
            .split_whitespace()
            .find(|word| word.ends_with(".conf"))
            .map(str::to_owned),
        single_files: service.mounts().into_iter().filter(|target| target.ends_with(".conf")).collect(),
    })
}

fn read_service<'a>(file: &str, name: &str, definition: &'a Value) -> Option<Service<'a>> {
    let image = substitute(definition.get("image")?.as_str()?);
    let kind = image_kind(&image)?;
    let command = [words(definition.get("entrypoint")), words(definition.get("command"))].concat().join(" ");
    // Inside `sh -c "…"` the words are quoted once more.
    let command = command.replace(['"', '\''], " ");
    Some(Service { kind, subject: format!("{file}: {name}"), image, command, definition })
}

fn examine_service(service: &Service<'_>) -> Vec<Finding> {
    let mut findings = match service.kind {
        StoreKind::Mongo => mongo(service),
        StoreKind::Postgres => postgres(service),
        StoreKind::Redis => redis(service),
    };
    findings.extend(image_tag(service));
    findings.extend(published_ports(service));
    findings.extend(plain_passwords(service));
    if service.definition.get("healthcheck").is_none() {
        let test = match service.kind {
            StoreKind::Mongo => "mongosh --quiet --eval 'db.adminCommand(\"ping\").ok'",
            StoreKind::Postgres => "pg_isready -U \"$$POSTGRES_USER\"",
            StoreKind::Redis => "redis-cli ping",
        };
        findings.push(service.finding(
            "no_healthcheck",
            Severity::Note,
            "there is no health check, so others start before this one is ready",
            format!(
                "healthcheck: {{ test: [\"CMD-SHELL\", \"{}\"], interval: 5s, retries: 20 }}",
                test.replace('"', "\\\"")
            ),
        ));
    }
    findings
}

fn mongo(service: &Service<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !has_option(&service.command, "--replSet") {
        findings.push(service.finding(
            "mongo_standalone",
            Severity::Warning,
            "mongod runs without `--replSet`: no oplog, so no backup of one moment, no change streams, no transactions",
            "command: [\"mongod\", \"--replSet\", \"rs0\", \"--bind_ip_all\"], and once `rs.initiate()`",
        ));
    }
    findings.extend(service.volume_at("/data/db"));
    findings
}

fn postgres(service: &Service<'_>) -> Vec<Finding> {
    let targets = service.mounts();
    let data = "/var/lib/postgresql/data";
    let own_folder = service.variable("PGDATA").map(|path| path.trim_end_matches('/').to_owned());
    let major = image_major(&service.image);
    let is_mounted = |path: &str| targets.iter().any(|target| target == path);
    // Whoever sets PGDATA says where the data is; the image follows.
    if let Some(folder) = own_folder {
        let covered =
            targets.iter().any(|target| folder == *target || folder.starts_with(&format!("{target}/")));
        return if covered { Vec::new() } else { service.volume_at(&folder).into_iter().collect() };
    }
    match major {
        Some(major) if major < 18 && is_mounted(data) => vec![service.finding(
            "postgres_volume_before_18",
            Severity::Note,
            "the volume is mounted at /var/lib/postgresql/data, which images from 18 on do not use",
            "when you upgrade to 18, mount it at /var/lib/postgresql",
        )],
        Some(major) if major < 18 => service.volume_at(data).into_iter().collect(),
        _ if is_mounted(data) => vec![service.finding(
            "postgres_volume_at_data",
            Severity::Critical,
            "the volume is mounted at /var/lib/postgresql/data, but this image keeps its data below /var/lib/postgresql/18: the data is lost with the container",
            "mount it at /var/lib/postgresql instead; if the server has run, take a dump first",
        )],
        _ => service.volume_at("/var/lib/postgresql").into_iter().collect(),
    }
}

/// A server that finds no append-only file where it was told to use one begins empty, and its next snapshot replaces the old one: the running
/// server makes the file first.
const APPEND_ONLY_REMEDY: &str = "declare `appendonly = true` in [redis.policy] and run `mainstay redis policy plan`, then `mainstay redis policy apply`; \
                                  only when that has ended, add `--appendonly yes` here: a server that begins so without the file begins empty";

fn redis(service: &Service<'_>) -> Vec<Finding> {
    let command = &service.command;
    let words: Vec<&str> = command.split_whitespace().collect();
    let after =
        |option: &str| words.iter().position(|word| *word == option).map(|at| words.get(at + 1).copied());
    let aof = after("--appendonly").flatten() == Some("yes");
    // `--save ""` leaves nothing behind once the quotes are gone: the next word is another option or the end.
    let rdb_off = after("--save").is_some_and(|next| next.is_none_or(|word| word.starts_with("--")));
    let own_file = words.iter().any(|word| word.ends_with(".conf"));
    let mut findings = Vec::new();
    if rdb_off && !aof {
        findings.push(service.finding(
            "redis_not_persistent",
            Severity::Warning,
            "snapshots are off and there is no append-only file: a restart loses every key",
            format!("{APPEND_ONLY_REMEDY}; leave it so only where every key can be made again"),
        ));
    } else if !aof && !own_file {
        findings.push(service.finding(
            "redis_no_aof",
            Severity::Note,
            "only snapshots are kept (every hour, or 5 minutes after 100 changes): a crash loses what came after the last one",
            format!("if sessions or queues live here: {APPEND_ONLY_REMEDY}"),
        ));
    }
    if !rdb_off || aof {
        findings.extend(service.volume_at("/data"));
    }
    findings
}

fn published_ports(service: &Service<'_>) -> Option<Finding> {
    let ports = service.definition.get("ports")?.as_array()?;
    let open: Vec<String> = ports.iter().filter_map(open_port).collect();
    if open.is_empty() {
        return None;
    }
    let unguarded = match service.kind {
        StoreKind::Mongo => {
            service.variable_name_like("MONGO_INITDB_ROOT_USERNAME").is_none()
                && !has_option(&service.command, "--auth")
        }
        StoreKind::Postgres => service.variable("POSTGRES_HOST_AUTH_METHOD").as_deref() == Some("trust"),
        StoreKind::Redis => {
            !has_option(&service.command, "--requirepass") && !service.command.contains(".conf")
        }
    };
    let (severity, and) =
        if unguarded { (Severity::Critical, ", and asks for no password") } else { (Severity::Warning, "") };
    Some(service.finding(
        "port_on_every_address",
        severity,
        format!("port {} is published on every address of the host{and}; a container's port bypasses the usual firewall rules", open.join(", ")),
        format!("publish it on this machine only: \"127.0.0.1:{}\"", open[0]),
    ))
}

fn image_tag(service: &Service<'_>) -> Option<Finding> {
    let tag = image_tag_of(&service.image);
    let unpinned = tag.is_empty() || tag.starts_with("latest");
    unpinned.then(|| {
        service.finding(
            "image_not_pinned",
            Severity::Warning,
            "the image has no version, so pulling it may jump to a major version that cannot read the data",
            "name the major version, as in `postgres:18`, `redis:8`, `mongo:8`",
        )
    })
}

fn plain_passwords(service: &Service<'_>) -> Option<Finding> {
    let is_password = |name: &str| name.contains("PASSWORD") && !name.ends_with("_FILE");
    let literal = |value: &str| !value.is_empty() && !value.contains('$');
    let in_environment =
        service.environment().into_iter().find(|(name, value)| is_password(name) && literal(value));
    let words: Vec<&str> = service.command.split_whitespace().collect();
    let in_command = words.windows(2).any(|pair| pair[0] == "--requirepass" && literal(pair[1]));
    let place = match in_environment {
        Some((name, _)) => name,
        None if in_command => "--requirepass".to_owned(),
        None => return None,
    };
    Some(service.finding(
        "password_in_file",
        Severity::Warning,
        format!("{place} stands in the file in plain text"),
        format!("keep it out of the file: \"${{{}}}\" from an `.env` that is not under version control, or a secret", place.trim_start_matches("--").to_uppercase()),
    ))
}

impl Service<'_> {
    fn finding(
        &self,
        id: &str,
        severity: Severity,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            id: format!("compose.{id}"),
            severity,
            store: Some(self.kind),
            subject: self.subject.clone(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn volume_at(&self, path: &str) -> Option<Finding> {
        let covered =
            self.mounts().iter().any(|target| path == target || path.starts_with(&format!("{target}/")));
        (!covered).then(|| {
            self.finding(
                "no_volume",
                Severity::Warning,
                format!("no named volume or folder is mounted at {path}: the data goes with the container"),
                format!("volumes: [\"{}_data:{path}\"]", self.kind),
            )
        })
    }

    /// The paths inside the container at which something lasting is mounted.
    fn mounts(&self) -> Vec<String> {
        let volumes =
            self.definition.get("volumes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let target = |volume: &Value| match volume {
            Value::String(text) => {
                let text = substitute(text);
                let mut parts = text.split(':');
                match (parts.next(), parts.next()) {
                    // A single path is an anonymous volume, which `docker compose down -v` and a new container leave behind.
                    (Some(_), Some(target)) => Some(target.to_owned()),
                    _ => None,
                }
            }
            Value::Object(long) => {
                let is_lasting =
                    long.get("type").and_then(Value::as_str) != Some("tmpfs") && long.contains_key("source");
                long.get("target").and_then(Value::as_str).filter(|_| is_lasting).map(substitute)
            }
            _ => None,
        };
        volumes.iter().filter_map(target).map(|path| path.trim_end_matches('/').to_owned()).collect()
    }

    /// Names and values of the service's environment, in both forms; a value that is not given is empty.
    fn environment(&self) -> Vec<(String, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => substitute(text),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        match self.definition.get("environment") {
            Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(|line| line.split_once('=').unwrap_or((line, "")))
                .map(|(name, value)| (name.to_owned(), substitute(value)))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.environment().into_iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The variable itself or its `_FILE` twin.
    fn variable_name_like(&self, name: &str) -> Option<String> {
        self.environment()
            .into_iter()
            .map(|(own, _)| own)
            .find(|own| own == name || *own == format!("{name}_FILE"))
    }
}

/// The port inside the container, when it is published on every address; `host:container` as it should be written.
fn open_port(port: &Value) -> Option<String> {
    match port {
        Value::Number(number) => Some(format!("{number}:{number}")),
        Value::String(text) => {
            let text = substitute(text);
            let text = text.split('/').next().unwrap_or_default();
            let rest = match text.strip_prefix("[::]:").or_else(|| text.strip_prefix("0.0.0.0:")) {
                Some(rest) => rest,
                None if text.starts_with('[') || text.matches(':').count() > 1 => return None,
                None => text,
            };
            Some(if rest.contains(':') { rest.to_owned() } else { format!("{rest}:{rest}") })
        }
        Value::Object(long) => {
            let address = long.get("host_ip").and_then(Value::as_str).unwrap_or("0.0.0.0");
            let number = |name: &str| match long.get(name) {
                Some(Value::String(text)) => Some(substitute(text)),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            let (target, published) = (number("target")?, number("published")?);
            matches!(address, "0.0.0.0" | "::").then(|| format!("{published}:{target}"))
        }
        _ => None,
    }
}

/// Which store an image is: by the last part of its name, as in `docker.io/library/postgres:18-alpine`.
fn image_kind(image: &str) -> Option<StoreKind> {
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    match name {
        "mongo" | "mongodb-community-server" => Some(StoreKind::Mongo),
        "postgres" => Some(StoreKind::Postgres),
        "redis" => Some(StoreKind::Redis),
        _ => None,
    }
}

fn image_tag_of(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    match name.split_once('@') {
        // A digest pins more firmly than any tag.
        Some((_, digest)) => digest,
        None => name.split_once(':').map_or("", |(_, tag)| tag),
    }
}

fn image_major(image: &str) -> Option<u32> {
    let tag = image_tag_of(image);
    let digits = tag.find(|character: char| !character.is_ascii_digit()).unwrap_or(tag.len());
    tag[..digits].parse().ok()
}

fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![substitute(text)],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(substitute).collect(),
        _ => Vec::new(),
    }
}

fn has_option(command: &str, option: &str) -> bool {
    command
        .split_whitespace()
        .any(|word| word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
}

/// `text` with every `${NAME:-default}` and `${NAME-default}` replaced by its default.
fn substitute(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("${") {
        let Some(length) = rest[begin..].find('}') else { break };
        let inside = &rest[begin + 2..begin + length];
        result.push_str(&rest[..begin]);
        match inside.split_once(":-").or_else(|| inside.split_once('-')) {
            // `$${…}` is an escaped dollar sign, which the container's shell will see.
            Some((_, default)) if !result.ends_with('$') => result.push_str(default),
            _ => result.push_str(&rest[begin..=begin + length]),
        }
        rest = &rest[begin + length + 1..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A service without any fault.
    fn good(kind: StoreKind) -> Value {
        match kind {
            StoreKind::Mongo => json!({
                "image": "mongo:8", "command": ["mongod", "--replSet", "rs0"], "volumes": ["mongo_data:/data/db"],
                "ports": ["127.0.0.1:27017:27017"], "healthcheck": {},
            }),
            StoreKind::Postgres => json!({
                "image": "postgres:18-alpine", "volumes": ["/srv/pg:/var/lib/postgresql"], "healthcheck": {},
                "environment": {"POSTGRES_PASSWORD": "${POSTGRES_PASSWORD}"}, "expose": [5432],
            }),
            StoreKind::Redis => json!({
                "image": "redis:8", "volumes": [{"type": "volume", "source": "r", "target": "/data"}], "healthcheck": {},
                "command": ["sh", "-lc", "redis-server --requirepass \"$${REDIS_PASSWORD}\" --appendonly yes --appendfsync everysec"],
            }),
        }
    }

    #[test]
    fn the_command_that_starts_redis_is_taken_apart() {
        let file = |command: &str, volumes: &Value| {
            json!({"services": {
                "cache": {"image": "redis:8", "command": command, "volumes": volumes},
                "db": {"image": "postgres:18"},
            }})
        };
        let command = "redis-server /usr/local/etc/redis/redis.conf --requirepass canary --save \"3600 1 300 100\" --appendonly no";
        let volumes = json!(["./redis.conf:/usr/local/etc/redis/redis.conf:ro", "data:/data"]);
        let start = redis_start(&file(command, &volumes), "compose.yaml").unwrap_or_default();
        assert_eq!(start.place, "compose.yaml: cache");
        assert_eq!(start.config_file.as_deref(), Some("/usr/local/etc/redis/redis.conf"));
        assert_eq!(start.single_files, ["/usr/local/etc/redis/redis.conf"]);
        let options: Vec<(&str, &str)> =
            start.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(options, [("appendonly", "no"), ("save", "3600 1 300 100")]);
        let start =
            redis_start(&json!({"services": {"redis": good(StoreKind::Redis)}}), "c").unwrap_or_default();
        assert_eq!(start.options["appendfsync"], "everysec");
        let mut two = file("redis-server", &json!([]));
        two["services"]["other"] = json!({"image": "redis:8"});
        assert_eq!(redis_start(&two, "c"), None, "nobody knows which one was asked");
    }

    fn found(kind: StoreKind, changes: &Value) -> Vec<(String, Severity)> {
        let mut service = good(kind);
        for (name, value) in changes.as_object().into_iter().flatten() {
            service[name] = value.clone();
        }
        let findings = examine(
            &json!({"services": {"own-name": service, "backend": {"image": "shop/backend"}}}),
            "compose.yaml",
        );
        assert!(
            findings
                .iter()
                .all(|finding| finding.subject == "compose.yaml: own-name" && finding.store == Some(kind))
        );
        assert!(!format!("{findings:?}").contains("canary"));
        findings
            .into_iter()
            .map(|finding| (finding.id.trim_start_matches("compose.").to_owned(), finding.severity))
            .collect()
    }

    #[test]
    fn good_services_have_no_findings() {
        for kind in StoreKind::ALL {
            assert_eq!(found(kind, &json!({})), []);
        }
    }

    #[test]
    fn each_mistake_is_found() {
        use Severity::{Critical, Note, Warning};
        use StoreKind::{Mongo, Postgres, Redis};
        let data = "/var/lib/postgresql/data";
        let cases = [
            (Postgres, json!({"volumes": [format!("pg:{data}")]}), "postgres_volume_at_data", Critical),
            (
                Postgres,
                json!({"volumes": [format!("${{DIR:-./pg}}:{data}:rw")]}),
                "postgres_volume_at_data",
                Critical,
            ),
            (
                Postgres,
                json!({"volumes": [{"type": "bind", "source": "/x", "target": data}]}),
                "postgres_volume_at_data",
                Critical,
            ),
            (
                Postgres,
                json!({"image": "postgres:${TAG:-18}", "volumes": [format!("pg:{data}/")]}),
                "postgres_volume_at_data",
                Critical,
            ),
            (
                Postgres,
                json!({"image": "postgres:17", "volumes": [format!("pg:{data}")]}),
                "postgres_volume_before_18",
                Note,
            ),
            (Postgres, json!({"volumes": []}), "no_volume", Warning),
            (Postgres, json!({"volumes": ["/var/lib/postgresql"]}), "no_volume", Warning),
            (Postgres, json!({"environment": ["POSTGRES_PASSWORD=canary"]}), "password_in_file", Warning),
            (Postgres, json!({"ports": ["5432:5432"]}), "port_on_every_address", Warning),
            (
                Postgres,
                json!({"ports": ["5432:5432"], "environment": {"POSTGRES_HOST_AUTH_METHOD": "trust"}}),
                "port_on_every_address",
                Critical,
            ),
            (Mongo, json!({"command": null}), "mongo_standalone", Warning),
            (Mongo, json!({"volumes": [{"type": "tmpfs", "target": "/data/db"}]}), "no_volume", Warning),
            (Mongo, json!({"ports": ["27017:27017"]}), "port_on_every_address", Critical),
            (Mongo, json!({"ports": [27017]}), "port_on_every_address", Critical),
            (
                Mongo,
                json!({"ports": ["0.0.0.0:1:27017/tcp"], "environment": {"MONGO_INITDB_ROOT_USERNAME": "u"}}),
                "port_on_every_address",
                Warning,
            ),
            (
                Mongo,
                json!({"ports": [{"target": 27017, "published": "27017"}]}),
                "port_on_every_address",
                Critical,
            ),
            (Mongo, json!({"image": "mongo"}), "image_not_pinned", Warning),
            (Mongo, json!({"image": "registry:5000/mongo:latest"}), "image_not_pinned", Warning),
            (
                Redis,
                json!({"command": "redis-server --save \"\" --appendonly no"}),
                "redis_not_persistent",
                Warning,
            ),
            (Redis, json!({"command": ["redis-server", "--save", ""]}), "redis_not_persistent", Warning),
            (Redis, json!({"command": "redis-server"}), "redis_no_aof", Note),
            (Redis, json!({"volumes": []}), "no_volume", Warning),
            (
                Redis,
                json!({"command": "redis-server --appendonly yes --requirepass canary"}),
                "password_in_file",
                Warning,
            ),
        ];
        for (kind, changes, id, severity) in cases {
            assert_eq!(found(kind, &changes), [(id.to_owned(), severity)], "{changes}");
        }
        let mut without = good(Mongo);
        without.as_object_mut().expect("a service is a map").remove("healthcheck");
        let findings = examine(&json!({"services": {"m": without}}), "c");
        assert_eq!(findings[0].id, "compose.no_healthcheck");
    }

    /// An append-only file is there before a server is told to start from it: whoever follows a remedy to the letter keeps every key.
    #[test]
    fn no_remedy_has_a_server_begin_without_its_append_only_file() {
        for command in
            ["redis-server", "redis-server --save \"\"", "redis-server --save \"\" --appendonly no"]
        {
            let mut service = good(StoreKind::Redis);
            service["command"] = json!(command);
            let findings = examine(&json!({"services": {"cache": service}}), "compose.yaml");
            let about: Vec<&str> = findings.iter().map(|finding| finding.remedy.as_str()).collect();
            let remedy = about.iter().find(|remedy| remedy.contains("--appendonly yes")).expect(command);
            let step = |text: &str| remedy.find(text).expect(text);
            assert!(step("redis policy apply") < step("--appendonly yes"), "{remedy}");
        }
    }

    #[test]
    fn what_is_right_in_another_way_is_left_alone() {
        let pgdata = json!({"environment": {"PGDATA": "/var/lib/postgresql/data/pg"}, "volumes": ["pg:/var/lib/postgresql/data"]});
        let cases = [
            (StoreKind::Postgres, pgdata),
            (
                StoreKind::Mongo,
                json!({"ports": [{"target": 27017, "published": 27017, "host_ip": "127.0.0.1"}]}),
            ),
            (StoreKind::Mongo, json!({"ports": ["[::1]:27017:27017"]})),
            (StoreKind::Redis, json!({"command": ["redis-server", "/usr/local/etc/redis/redis.conf"]})),
            (StoreKind::Redis, json!({"image": "redis@sha256:00"})),
        ];
        for (kind, changes) in cases {
            assert_eq!(found(kind, &changes), [], "{changes}");
        }
    }

    #[test]
    fn the_servers_own_word_is_compared_with_what_is_mounted() {
        let judged = |changes: &Value, folder: &str| {
            let mut service = good(StoreKind::Postgres);
            for (name, value) in changes.as_object().into_iter().flatten() {
                service[name] = value.clone();
            }
            let file = json!({"services": {"db": service, "cache": good(StoreKind::Redis)}});
            data_on_volume(&file, "compose.yaml", folder).map(|finding| (finding.id, finding.severity))
        };
        let at_data = json!({"volumes": ["pg:/var/lib/postgresql/data"]});
        let own = json!({"volumes": ["pg:/var/lib/postgresql"], "environment": {"PGDATA": "/srv/pg/"}});
        let lost = Some(("compose.postgres_data_not_on_volume".to_owned(), Severity::Critical));
        assert_eq!(judged(&json!({}), "/var/lib/postgresql/18/docker"), None);
        assert_eq!(judged(&at_data, "/var/lib/postgresql/data"), None);
        assert_eq!(judged(&at_data, "/var/lib/postgresql/18/docker"), lost);
        assert_eq!(judged(&json!({"volumes": []}), "/var/lib/postgresql/18/docker"), lost);
        assert_eq!(judged(&own, "/srv/pg"), lost);
        // Another server than that of the file.
        assert_eq!(judged(&own, "/var/lib/postgresql/data"), None);
        assert_eq!(judged(&at_data, "/usr/local/pgsql/data"), None);
        let two = json!({"services": {"a": good(StoreKind::Postgres), "b": good(StoreKind::Postgres)}});
        assert_eq!(data_on_volume(&two, "c", "/var/lib/postgresql/other"), None);
    }

    #[test]
    fn something_else_is_said_to_be_something_else() {
        assert_eq!(examine(&json!([1]), "x.yaml")[0].id, "compose.no_services");
    }
}
