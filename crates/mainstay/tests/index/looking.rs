//! Importing, auditing, expiries, and what goes wrong: as a person sees it.

use mainstay_testkit::engines::Mongoose;
use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::{DateTime, doc};

use crate::project::Project;

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_loaded_as_they_are() {
    for major in Mongoose::ALL {
        let project = Project::with(shared_mongod(), major).await;
        // A program that connects, defines models late, and never ends; modules of the newer kind; a connection of its own.
        project.write(
            "app.mjs",
            "import mongoose, { Schema } from 'mongoose';\n\
             mongoose.set('autoIndex', false);\n\
             const event = new Schema({ at: Date }, { discriminatorKey: 'kind' });\n\
             event.index({ at: -1 });\n\
             await mongoose.connect('mongodb://127.0.0.1:1/nowhere');\n\
             const Event = mongoose.model('Event', event);\n\
             Event.discriminator('Click', new Schema({ url: { type: String, index: true } }));\n\
             const own = mongoose.createConnection('mongodb://127.0.0.1:1/elsewhere', { autoIndex: true });\n\
             await own.asPromise();\n\
             own.model('Log', new Schema({ at: { type: Date, expires: '1h' } }));\n\
             console.log('listening');\n\
             setInterval(() => {}, 1000);\n",
        );
        let ran = project
            .run(&["index", "import", "mongoose", "--facts", "facts.json", "--", "node", "app.mjs"])
            .expect(0);
        let version = if major == Mongoose::Eight { "8.24.10" } else { "9.12.1" };
        assert_eq!(
            ran.stdout,
            format!(
                "# Indexes: what the models declare, of Mongoose {version}.\n[mongo.indexes]\n\
                 events = [\n  {{ keys = [\"-at\"] }},\n  {{ keys = [\"url\"], partial = {{ kind = \"Click\" }} }},\n]\n\
                 logs = [\n  {{ keys = [\"at\"], ttl = \"1h\" }},\n]\n"
            )
        );
        assert!(ran.stderr.contains("logs: the application builds its indexes"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("events: the application"), "{}", ran.stderr);
        // The facts are enough to judge the code without running it.
        project.command(doc! { "create": "logs" }).await;
        project
            .run(&["index", "audit", "--facts", "facts.json"])
            .expect(3)
            .says("autoIndex is on")
            .says("(logs)");
        for (file, why) in [
            ("app.mjs", "no facts of an import"),
            ("/dev/zero", "no regular file"),
            ("nowhere", "cannot read"),
        ] {
            project
                .run(&["index", "audit", "--facts", file])
                .expect(2)
                .says(why)
                .says("index import mongoose --facts");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_fail_declare_nothing() {
    let project = Project::with(shared_mongod(), Mongoose::Nine).await;
    project.write("broken.cjs", "require('mongoose').model('A', new (require('mongoose').Schema)({}));\nthrow new Error('no DATABASE_URL');\n");
    project.write("empty.cjs", "require('mongoose');\n");
    project.write("slow.cjs", "setInterval(() => {}, 1000);\n");
    let import = |arguments: &[&str]| {
        let mut all = vec!["index", "import", "mongoose"];
        all.extend(arguments);
        project.run(&all)
    };
    let ran = import(&["broken.cjs"]).expect(8).says("ended with exit status: 1").says("no DATABASE_URL");
    assert_eq!(ran.stdout, "");
    import(&["--", "node", "broken.cjs"]).expect(8).says("no DATABASE_URL").says("load its models alone");
    import(&["empty.cjs"]).expect(8).says("defined no model");
    import(&["nowhere"]).expect(8).says("there is no nowhere").says("behind `--`");
    import(&["empty.cjs", "--output", "broken.cjs"]).expect(8).says("exists already");
    import(&["--node", "no-such-node", "empty.cjs"])
        .expect(8)
        .says("no-such-node cannot be run")
        .says("--node");
    import(&["--max-time", "1s", "--", "node", "slow.cjs"]).expect(8).says("did not end within 1s");
    import(&[]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_client_connects_while_models_are_loaded() {
    let project = Project::with(shared_mongod(), Mongoose::Nine).await;
    // Each is told that it is mainstay that refuses; a socket of this machine is none of its business.
    project.write(
        "models.mjs",
        "import http from 'node:http';\n\
         import net from 'node:net';\n\
         import tls from 'node:tls';\n\
         import mongoose from 'mongoose';\n\
         mongoose.model('A', new mongoose.Schema({ x: { type: Number, index: true } }));\n\
         const ended = (client) => new Promise((resolve) => {\n\
           for (const event of ['connect', 'secureConnect', 'response']) client.on(event, () => resolve(event));\n\
           client.on('error', (error) => resolve(error.message));\n\
         });\n\
         const clients = [net.connect(65001, '127.0.0.1'), tls.connect({ port: 65001, servername: 'a.b' }), http.get('http://localhost:65001/')];\n\
         for (const end of await Promise.all(clients.map(ended))) {\n\
           if (!/:65001 refused: mainstay loads/.test(end)) throw new Error(`it was ${end}`);\n\
         }\n\
         const server = net.createServer((socket) => socket.end());\n\
         await new Promise((resolve) => server.listen('own.sock', resolve));\n\
         const end = await ended(net.connect('own.sock'));\n\
         if (end !== 'connect') throw new Error(`it was ${end}`);\n\
         server.close();\n",
    );
    project.run(&["index", "import", "mongoose", "models.mjs"]).expect(0).says("as = [");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sides_are_shown_beside_each_other() {
    let project = Project::with(shared_mongod(), Mongoose::Eight).await;
    project.write("models.cjs", "const { Schema, model } = require('mongoose');\nmodel('A', new Schema({ x: { type: Number, index: true }, y: { type: Number, index: true } }));\n");
    project.configure("[mongo.indexes]\nas = [{ keys = [\"x\"] }, { keys = [\"z\"], unique = true }]\n");
    project
        .build(
            "as",
            &[
                doc! { "key": { "x": 1 }, "name": "x_1", "sparse": false },
                doc! { "key": { "z": 1 }, "name": "z_1" },
            ],
        )
        .await;
    let ran = project.run(&["index", "import", "mongoose", "models.cjs", "--merge"]).expect(3);
    let lines: Vec<Vec<&str>> =
        ran.stdout.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
    assert_eq!(
        lines,
        [
            vec!["INDEX", "CODE", "MANIFEST", "LIVE"],
            vec!["as.x_1", "yes", "yes", "yes"],
            vec!["as.z_1", "-", "-", "yes"],
            vec!["as.z_1", "-", "yes", "-"],
            vec!["as.y_1", "yes", "-", "-"],
            vec!["3", "of", "4", "are"],
        ],
        "{}",
        ran.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_judges_what_was_watched() {
    let project = Project::new(shared_mongod()).await;
    project.insert("users", &(0..20).map(|n| doc! { "a": n, "b": n, "c": n }).collect::<Vec<_>>()).await;
    let indexes = [
        doc! { "key": { "a": 1 }, "name": "a_1" },
        doc! { "key": { "a": 1, "b": 1 }, "name": "a_1_b_1" },
        doc! { "key": { "c": 1 }, "name": "c_1" },
        doc! { "key": { "d": 1 }, "name": "d_1", "unique": true, "sparse": true },
        doc! { "key": { "e": 1 }, "name": "e_1", "hidden": true },
    ];
    project.build("users", &indexes).await;
    project.command(doc! { "find": "users", "filter": { "a": 5, "b": 5 }, "hint": "a_1_b_1" }).await;
    project.command(doc! { "find": "users", "filter": { "a": 5 }, "hint": "a_1" }).await;
    // Watched for seconds: nothing is called unused; a redundant one is redundant at once.
    let told = project.json(&["index", "audit"], 3);
    let found = |told: &serde_json::Value| -> Vec<String> {
        let findings = told["findings"].as_array().unwrap();
        let line = |finding: &serde_json::Value| {
            let subject = finding["subject"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
            format!("{} {subject}", finding["id"].as_str().unwrap())
        };
        findings.iter().map(line).collect()
    };
    assert_eq!(found(&told), ["index.redundant a_1", "index.unjudged c_1"]);
    let used: Vec<u64> =
        told["indexes"].as_array().unwrap().iter().map(|row| row["operations"].as_u64().unwrap()).collect();
    assert_eq!(used, [1, 1, 0, 0, 0]);
    let told = project.json(&["index", "audit", "--watched", "0s"], 3);
    assert_eq!(found(&told), ["index.redundant a_1", "index.unused c_1"]);
    // Excused and pinned.
    project.configure("[mongo.indexes]\nusers = [{ keys = [\"a\"], allow = [\"prefix-redundant\"] }, { keys = [\"c\"], pin = true }]\n");
    project.run(&["index", "audit", "--watched", "0s"]).expect(0).says("no findings").says("users.c_1");
}

#[tokio::test(flavor = "multi_thread")]
async fn expiries_are_counted() {
    // Nothing may be deleted while it is counted.
    let mongod = Mongod::options().parameter("ttlMonitorEnabled", "false").start().unwrap();
    let project = Project::new(&mongod).await;
    let ago = |minutes: i64| DateTime::from_millis(DateTime::now().timestamp_millis() - minutes * 60_000);
    let documents = [
        doc! { "at": ago(600), "kind": "a" },
        doc! { "at": ago(90), "kind": "a" },
        doc! { "at": [ago(1), ago(61)], "kind": "b" },
        doc! { "at": ago(10), "kind": "b" },
        doc! { "at": "yesterday", "kind": "a" },
        doc! { "at": null, "kind": "a" },
        doc! { "kind": "b" },
    ];
    project.insert("codes", &documents).await;
    let indexes = [
        doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 3_600 },
        doc! { "key": { "at": -1 }, "name": "narrow", "expireAfterSeconds": 3_600, "partialFilterExpression": { "kind": "b" } },
        doc! { "key": { "gone": 1 }, "name": "gone_1", "expireAfterSeconds": 2_147_483_647 },
    ];
    project.build("codes", &indexes).await;
    // A hidden one deletes, and no question may walk it; what is in an index is decided by its own collation.
    let folded = doc! { "locale": "en", "strength": 2 };
    let indexes = [
        doc! { "key": { "at": 1 }, "name": "hidden", "expireAfterSeconds": 3_600, "hidden": true },
        doc! {
            "key": { "at": -1 }, "name": "folded", "expireAfterSeconds": 3_600,
            "partialFilterExpression": { "kind": "a" }, "collation": folded,
        },
    ];
    let documents = [
        doc! { "at": ago(70), "kind": "A" },
        doc! { "at": ago(80), "kind": "a" },
        doc! { "at": ago(5), "kind": "A" },
    ];
    project.insert("tokens", &documents).await;
    project.build("tokens", &indexes).await;
    let told = project.json(&["mongo", "ttl"], 4);
    let counts = |row: usize| {
        let counts = &told["indexes"][row]["counts"];
        ["overdue", "not_dates", "arrays", "missing"].map(|key| counts[key].as_u64().unwrap())
    };
    assert_eq!((counts(0), counts(1), counts(2)), ([3, 2, 1, 1], [1, 0, 1, 1], [0, 0, 0, 7]));
    assert_eq!((&told["indexes"][3]["index"], counts(3)), (&"hidden".into(), [2, 0, 0, 0]));
    assert_eq!((&told["indexes"][4]["index"], counts(4)), (&"folded".into(), [2, 0, 0, 0]));
    let lag = told["indexes"][0]["counts"]["lag_seconds"].as_u64().unwrap();
    assert!((540 * 60..545 * 60).contains(&lag), "{lag}");
    assert_eq!((&told["indexes"][2]["never"], &told["monitor"]["enabled"]), (&true.into(), &false.into()));
    let text = project.run(&["mongo", "ttl"]).expect(4);
    let text = text
        .says("the monitor is off")
        .says("3 documents are overdue, the oldest for 9h")
        .says("2 documents have no date in `at`");
    text.says("never").says("of those that match").says("0 passes, every 1s");
    project.run(&["mongo", "ttl", "--collection", "nothing"]).expect(8).says("there is no collection");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_manifest_is_told_with_its_line() {
    let project = Project::new(shared_mongod()).await;
    project.run(&["index", "drift"]).expect(8).says("no indexes are declared").says("index import live");
    project.configure("[mongo.indexes]\nusers = [\n  { keys = [\"a\"], uniqe = true },\n]\n");
    project
        .run(&["index", "drift"])
        .expect(2)
        .says("mainstay.toml:13: an index has no `uniqe`")
        .says("known: keys");
    project.configure("indexes = \"nowhere.toml\"\n");
    project.run(&["index", "drift"]).expect(2).says("nowhere.toml");
    project.configure("indexes = \"indexes.toml\"\n[mongo.policy]\nmax_expire = 1\n");
    project
        .run(&["index", "drift"])
        .expect(2)
        .says("[mongo.policy] stands apart")
        .says("indexes.toml as [policy]");
    project
        .configure("[mongo.indexes]\nusers = [{ keys = [\"a\"] }]\n[mongo.policy]\nignore = [\"tmp_*\"]\n");
    project.build("tmp_1", &[doc! { "key": { "a": 1 }, "name": "a_1" }]).await;
    project.run(&["index", "drift"]).expect(3).says("+  users.a_1").silent_about("tmp_1");
    project.run(&["index", "drift", "--collection", "nothing"]).expect(8).says("there is no collection");
}
