//! The real binary, without any server: what it prints where, with which exit status, and what it never prints.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::process::Stdio;

use binary::Place;
use serde_json::Value;

const CANARY: &str = "canary-5up3r";

#[test]
fn help_and_version_go_to_standard_output() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Usage: mainstay"), "{}", help.stdout);
    assert_eq!(place.run(&["--version"]).stdout, format!("mainstay {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_status_2_on_standard_error() {
    let place = Place::new();
    for arguments in
        [&["statsu"][..], &["status", "--nope"], &["plan", "show"], &[], &["audit", "list", "--last", "x"]]
    {
        let seen = place.run(arguments);
        assert_eq!((seen.status, seen.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!seen.stderr.is_empty());
    }
    let seen = place.run(&["--json", "statsu"]);
    let value: Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!(
        (seen.status, &value["error"]["kind"], &value["error"]["exit_status"]),
        (2, &"usage".into(), &2.into())
    );
}

#[test]
fn a_password_in_an_argument_is_refused_and_not_repeated() {
    let place = Place::new();
    let urls = [
        ("--mongo-url", format!("mongodb://u:{CANARY}@h"), "MAINSTAY_MONGO_PASSWORD_FILE"),
        ("--pg-url", format!("postgres://u:{CANARY}@h/d"), "MAINSTAY_POSTGRES_PASSWORD_FILE"),
        ("--postgres-url", format!("postgres://h/d?password={CANARY}"), "MAINSTAY_POSTGRES_PASSWORD_FILE"),
        ("--redis-url", format!("redis://:{CANARY}@h"), "MAINSTAY_REDIS_PASSWORD_FILE"),
        ("--repository-url", format!("s3://key:{CANARY}@bucket"), "MAINSTAY_S3_SECRET_ACCESS_KEY_FILE"),
    ];
    for (flag, url, fix) in urls {
        for json in [false, true] {
            let mut arguments = vec!["status", flag, url.as_str()];
            arguments.extend(json.then_some("--json"));
            let seen = place.run(&arguments);
            assert_eq!(seen.status, 2, "{flag}");
            let text = seen.both();
            assert!(text.contains("holds a password") && text.contains(fix), "{text}");
            assert!(!text.contains(CANARY), "{text}");
        }
    }
    // Where the parser complains, it does not repeat them either.
    for arguments in [
        vec!["status".to_owned(), format!("redis://:{CANARY}@h")],
        vec![format!("--x=mongodb://u:{CANARY}@h")],
    ] {
        let seen = place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(seen.status, 2);
        assert!(!seen.both().contains(CANARY), "{}", seen.both());
    }
}

#[test]
fn a_configuration_error_names_place_and_remedy() {
    let place = Place::new();
    place.write("mainstay.toml", "[mongo]\nulr = \"mongodb://h\"\n");
    let seen = place.run(&["status"]);
    let file = place.path("mainstay.toml");
    let expected =
        format!("error: {}:2: unknown key `ulr` in [mongo]\n  hint: did you mean `url`?\n", file.display());
    assert_eq!((seen.status, seen.stdout.as_str(), seen.stderr.as_str()), (2, "", expected.as_str()));
    let seen = place.run(&["status", "--json"]);
    let value: Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!((value["version"].as_u64(), value["command"].as_str()), (Some(1), Some("status")));
    assert_eq!(
        (value["error"]["kind"].as_str(), value["error"]["hint"].as_str()),
        (Some("config"), Some("did you mean `url`?"))
    );
    // What needs no configuration works all the same.
    assert_eq!(place.run(&["completions", "bash"]).status, 0);
    assert_eq!(place.run(&["config", "show", "--variables"]).status, 0);
}

#[test]
fn config_init_writes_once_and_what_it_writes_is_valid() {
    let place = Place::new();
    assert_eq!(place.run(&["config", "init"]).status, 0);
    let first = std::fs::read(place.path("mainstay.toml")).unwrap();
    let again = place.run(&["config", "init"]);
    assert_eq!(again.status, 8);
    assert!(again.stderr.contains("exists already") && again.stderr.contains("state: nothing was changed"));
    assert_eq!(std::fs::read(place.path("mainstay.toml")).unwrap(), first);
    let check = place.run(&["config", "check"]);
    assert_eq!(check.status, 3);
    assert!(check.stdout.contains("config.no_store"), "{}", check.stdout);
}

#[test]
fn config_show_tells_each_origin_and_no_secret() {
    let place = Place::new()
        .variable("REDIS_PASSWORD", CANARY)
        .variable("PG_URL", &format!("postgres://u:{CANARY}@db.internal/shop"))
        .variable("DB_NAME", "marketplace");
    place.write(
        "mainstay.toml",
        "[mongo]\nurl = \"mongodb://127.0.0.1:27017\"\n[redis]\nurl = \"redis://127.0.0.1\"\n",
    );
    let seen = place.run(&["config", "show", "--origin", "--redis-url", "redis://127.0.0.1:7000"]);
    let file = place.path("mainstay.toml").display().to_string();
    let expected = format!(
        "\
KEY                             VALUE                         ORIGIN{gap}  INSTEAD OF
mongo.url                       mongodb://127.0.0.1:27017     {file}:2
mongo.database                  marketplace                   DB_NAME
postgres.url                    postgres://***@db.internal/shop  PG_URL
",
        gap = ""
    );
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&seen.stdout)[..words(&expected).len()], words(&expected)[..], "{}", seen.stdout);
    let redis = seen.stdout.lines().find(|line| line.starts_with("redis.url")).unwrap();
    assert_eq!(words(redis), ["redis.url", "redis://127.0.0.1:7000", "--redis-url", &format!("{file}:4")]);
    assert!(seen.stdout.contains("[secret]") && !seen.both().contains(CANARY), "{}", seen.both());

    let json = place.run(&["config", "show", "--json"]);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    let of = |key: &str| {
        value["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    assert_eq!(of("redis.password")["value"], "[secret]");
    assert_eq!(of("redis.password")["origin"]["kind"], "runbook_variable");
    assert_eq!(of("repository.s3.allow_http")["value"], false);
    assert!(!json.both().contains(CANARY));
}

#[test]
fn nothing_configured_is_a_precondition() {
    let seen = Place::new().run(&["status"]);
    assert_eq!(seen.status, 8);
    assert!(seen.stderr.contains("mainstay config init"), "{}", seen.stderr);
    let seen = Place::new().run(&["audit", "verify"]);
    assert_eq!(seen.status, 8);
    assert!(seen.stderr.contains("no repository is configured"), "{}", seen.stderr);
}

#[test]
fn doctor_reads_compose_files_and_its_status_is_that_of_the_worst_finding() {
    let place = Place::new();
    place.write(
        "docker-compose.yml",
        "services:\n  postgres: &pg\n    image: postgres:18-alpine\n    healthcheck: {}\n    volumes:\n      - ./pg:/var/lib/postgresql/data\n",
    );
    let seen = place.run(&["doctor", "--json"]);
    let value: Value = serde_json::from_str(&seen.stdout).unwrap();
    let found = value["findings"].as_array().unwrap();
    let worst = found.iter().find(|finding| finding["severity"] == "critical").unwrap();
    assert_eq!((seen.status, worst["id"].as_str()), (4, Some("compose.postgres_volume_at_data")));
    assert_eq!(worst["subject"], "docker-compose.yml: postgres");

    place.write("good.yaml", "services: {web: {image: shop}}\n");
    let seen = place.run(&["doctor", "--compose", "good.yaml"]);
    assert_eq!(seen.status, 3, "{}", seen.both());
    place.write("bad.yaml", &format!("services: {{a: [{CANARY}\n"));
    let seen = place.run(&["doctor", "--compose", "bad.yaml"]);
    assert_eq!(seen.status, 2);
    assert!(seen.stderr.contains("is not valid YAML") && !seen.both().contains(CANARY), "{}", seen.both());
}

#[test]
fn a_missing_repository_is_named_and_not_made() {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./backups");
    let commands = [
        &["audit", "list"][..],
        &["audit", "verify"],
        &["backup", "list"],
        &["backup", "show"],
        &["backup", "log"],
        &["backup", "verify"],
        &["backup", "prune"],
        &["backup", "prune", "--dry-run"],
        &["restore", "list"],
    ];
    let refused = |says: &str, status: i32| {
        for command in commands {
            let seen = place.run(command);
            assert_eq!(seen.status, status, "{command:?}: {}", seen.both());
            assert!(seen.stderr.contains(says), "{command:?}: {}", seen.stderr);
        }
    };
    refused("there is no repository at", 1);
    assert_eq!(place.run(&["status"]).status, 3);
    assert!(!place.path("backups").exists());
    place.write("backups", "a file");
    refused("there is no repository at", 1);
    std::fs::remove_file(place.path("backups")).unwrap();
    // A repository that has lost its head is none that is empty.
    std::fs::create_dir_all(place.path("backups/mongo/sets/20260101T000000Z-000001")).unwrap();
    place.write("backups/mongo/sets/20260101T000000Z-000001/a.zst", "");
    refused("mainstay.json is missing from", 4);
    assert_eq!(place.run(&["status"]).status, 4);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_in_the_way_of_the_next_try() {
    let place = Place::new();
    let script = format!("trap '' XFSZ; ulimit -f 0; exec '{}' config init", env!("CARGO_BIN_EXE_mainstay"));
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(place.path("."))
        .env_clear()
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("state: nothing was written") && stderr.contains("hint:"), "{stderr}");
    assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 0);
    assert_eq!(place.run(&["config", "init"]).status, 0);
}

#[test]
fn a_plan_file_that_is_none_is_refused() {
    let place = Place::new();
    place.write("x.json", "{\"a\":1}");
    assert_eq!(place.run(&["plan", "show", "x.json"]).status, 2);
    assert_eq!(place.run(&["apply", "x.json"]).status, 2);
    for (file, status, text) in [
        ("absent.json", 1, "there is no plan file"),
        ("/dev/null", 2, "no regular file"),
        (".", 2, "no regular file"),
    ] {
        let seen = place.run(&["plan", "show", file]);
        assert_eq!(seen.status, status, "{file}: {}", seen.both());
        assert!(seen.stderr.contains(text) && seen.stderr.contains("hint:"), "{file}: {}", seen.both());
    }
    place.write("y.json", "{\"format\":99}");
    let seen = place.run(&["plan", "show", "y.json"]);
    assert!(seen.status == 1 && seen.stderr.contains("has format 99"), "{}", seen.stderr);
}

#[test]
fn every_shell_and_every_command_has_its_page() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(place.run(&["completions", shell]).stdout.contains("mainstay"), "{shell}");
    }
    let page = place.run(&["man", "backup", "create"]);
    assert!(page.status == 0 && page.stdout.contains(".TH MAINSTAY-BACKUP-CREATE"), "{}", page.both());
    assert_eq!(place.run(&["man", "nothing"]).status, 2);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    let mut child = place
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// A server that takes connections and never says a word.
struct Mute {
    listener: std::net::TcpListener,
}

impl Mute {
    fn new() -> Self {
        Self { listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.listener.local_addr().unwrap())
    }
}

#[test]
fn a_server_that_never_answers_delays_status_by_a_bound() {
    let mute = Mute::new();
    let began = std::time::Instant::now();
    let seen = Place::new().run(&["status", "--redis-url", &mute.url()]);
    assert_eq!(seen.status, 6, "{}", seen.both());
    assert!(seen.stdout.contains("unreachable"), "{}", seen.stdout);
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_command_that_only_reads_at_once() {
    let mute = Mute::new();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let place = Place::new();
        let mut child = place
            .command(&["status", "--redis-url", &mute.url()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Once it has connected, it waits for an answer.
        let _connection = mute.listener.accept().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal:?}");
    }
}
