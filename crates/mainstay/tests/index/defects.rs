//! What stock Mongoose gets wrong about indexes, seen first in stock Mongoose and then absent here. The research behind it is of 8 and 9 alike,
//! and so is every test.

use mainstay_testkit::engines::Mongoose;
use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::doc;

use crate::project::Project;

/// A project whose one file of models says `models`.
async fn project(major: Mongoose, models: &str) -> Project {
    let project = Project::with(shared_mongod(), major).await;
    project.write("models.cjs", &format!("const {{ Schema, model }} = require('mongoose');\n{models}"));
    project
}

const NOTHING: [&str; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn sparse_false_is_no_difference() {
    for major in Mongoose::ALL {
        let models =
            "const a = new Schema({ n: Number });\na.index({ n: 1 }, { sparse: false });\nmodel('A', a);\n";
        let project = project(major, models).await;
        project.build("as", &[doc! { "key": { "n": 1 }, "name": "n_1", "sparse": false }]).await;
        project.write("plain.cjs", &project.read("models.cjs").replace(", { sparse: false }", ""));
        // The server keeps `sparse: false`, and a declaration without it is another index to Mongoose: dropped and built at every sync.
        assert_eq!(project.stock_diff("plain.cjs"), ["drop n_1", r#"build {"n":1}"#], "{major:?}");
        assert_eq!(project.drift("plain.cjs"), NOTHING);
        assert_eq!(project.drift("models.cjs"), NOTHING);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schemas_collation_is_that_of_its_indexes() {
    for major in Mongoose::ALL {
        let models = "const a = new Schema({ name: String, words: String }, { collation: { locale: 'en', strength: 2 } });\n\
                      a.index({ name: 1 });\na.index({ words: 'text' });\nmodel('A', a);\n";
        let project = project(major, models).await;
        project.stock("create", "models.cjs");
        // Its own build, and it still wants to build it.
        assert!(project.stock_diff("models.cjs").contains(&r#"build {"name":1}"#.to_owned()), "{major:?}");
        assert_eq!(project.drift("models.cjs"), NOTHING);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inherited_collation_is_no_difference() {
    for major in Mongoose::ALL {
        let models = "const a = new Schema({ name: String });\na.index({ name: 1 });\nmodel('A', a);\n";
        let project = project(major, models).await;
        project.command(doc! { "create": "as", "collation": { "locale": "fr" } }).await;
        project.stock("create", "models.cjs");
        assert_eq!(project.stock_diff("models.cjs"), ["drop name_1", r#"build {"name":1}"#], "{major:?}");
        assert_eq!(project.drift("models.cjs"), NOTHING);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_index_is_no_plain_index() {
    for major in Mongoose::ALL {
        let models = "const a = new Schema({ title: String });\na.index({ title: 1 });\nmodel('A', a);\n";
        let project = project(major, models).await;
        project.build("as", &[doc! { "key": { "title": "text" }, "name": "title_text" }]).await;
        // The declared index is missing, and Mongoose has nothing to do.
        assert_eq!(project.stock_diff("models.cjs"), NOTHING, "{major:?}");
        assert_eq!(project.drift("models.cjs"), ["missing as.title_1", "undeclared as.title_text"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_share_a_collection() {
    for major in Mongoose::ALL {
        let models = "const one = new Schema({ a: Number }, { collection: 'shared' });\none.index({ a: 1 });\nmodel('One', one);\n\
                      const other = new Schema({ b: Number }, { collection: 'shared' });\nother.index({ b: 1 });\nmodel('Other', other);\n";
        let project = project(major, models).await;
        project.stock("create", "models.cjs");
        assert_eq!(project.stock_diff("models.cjs"), ["drop b_1", "drop a_1"], "{major:?}");
        assert_eq!(project.drift("models.cjs"), NOTHING);
        // One sync, and only the last model has its index.
        project.stock("sync", "models.cjs");
        assert_eq!(project.drift("models.cjs"), ["missing shared.a_1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_over_duplicates_loses_no_index() {
    for major in Mongoose::ALL {
        let models =
            "const a = new Schema({ k: Number });\na.index({ k: 1 }, { unique: true });\nmodel('A', a);\n";
        let project = project(major, models).await;
        project.insert("as", &[doc! { "k": 1 }, doc! { "k": 1 }]).await;
        project.build("as", &[doc! { "key": { "k": 1 }, "name": "k_1" }]).await;
        // What leads there is a change in place, which drops nothing.
        assert_eq!(project.drift("models.cjs"), ["changed as.k_1"]);
        let told = project.json(&["index", "drift", "--manifest", "indexes.toml"], 3);
        let row = &told["indexes"][0];
        assert_eq!(
            (&row["differences"][0]["aspect"], &row["route"]["route"]),
            (&"unique".into(), &"modify".into())
        );
        // Stock Mongoose drops the old one, fails to build the new one, and leaves none.
        let synced = project.stock("sync", "models.cjs");
        assert!(synced["A"]["error"].as_str().is_some_and(|error| error.contains("E11000")), "{synced}");
        assert_eq!(project.drift("models.cjs"), ["missing as.k_1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_names_and_directions_are_told() {
    for major in Mongoose::ALL {
        let models = "const a = new Schema({ h: Number, n: Number, d: Number, w: Number });\na.index({ h: 1 });\na.index({ n: 1 });\n\
                      a.index({ d: 1 });\na.index({ w: 1 }, { name: 'mine' });\nmodel('A', a);\n";
        let project = project(major, models).await;
        let indexes = [
            doc! { "key": { "h": 1 }, "name": "h_1", "hidden": true },
            doc! { "key": { "n": 1 }, "name": "somebodys" },
            doc! { "key": { "d": -1 }, "name": "d_-1" },
            doc! { "key": { "w": 1 }, "name": "mine" },
        ];
        project.build("as", &indexes).await;
        // Hidden is not seen, and the other direction is another index.
        assert_eq!(project.stock_diff("models.cjs"), ["drop d_-1", r#"build {"d":1}"#], "{major:?}");
        assert_eq!(project.drift("models.cjs"), ["changed as.h_1", "reversed as.d_-1"]);
        project
            .run(&["index", "drift", "--manifest", "indexes.toml"])
            .expect(3)
            .says("hidden true → false")
            .says("shown by collMod: nothing is built")
            .says("as.somebodys")
            .says("declared as n_1")
            .says("equivalent, direction differs")
            .says("1 to change, 3 as declared")
            .silent_about("as.mine");
        // The direction and the name alone are nothing to do.
        project.command(doc! { "collMod": "as", "index": { "name": "h_1", "hidden": false } }).await;
        assert_eq!(project.drift("models.cjs"), ["reversed as.d_-1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_built_is_not_there() {
    // A fail point holds builds up, those of nobody else.
    let mongod = Mongod::start().unwrap();
    let fail_point = async |mode: &str| {
        let command = doc! { "configureFailPoint": "hangAfterSettingUpIndexBuild", "mode": mode };
        mongod.oracle().await.database("admin").run_command(command).await.unwrap();
    };
    for major in Mongoose::ALL {
        let project = Project::with(&mongod, major).await;
        project.write("models.cjs", "const { Schema, model } = require('mongoose');\nconst a = new Schema({ n: Number });\na.index({ n: 1 });\nmodel('A', a);\n");
        project.insert("as", &[doc! { "n": 1 }]).await;
        fail_point("alwaysOn").await;
        let building = tokio::spawn({
            let database = project.client.database(&project.database);
            async move {
                let index = doc! { "key": { "n": 1 }, "name": "n_1" };
                database.run_command(doc! { "createIndexes": "as", "indexes": [index] }).await
            }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while project.drift("models.cjs") != ["building as.n_1"] {
            assert!(std::time::Instant::now() < deadline, "{:?}", project.drift("models.cjs"));
        }
        // To Mongoose it is there, ready or not.
        assert_eq!(project.stock_diff("models.cjs"), NOTHING, "{major:?}");
        project
            .run(&["index", "drift", "--manifest", "indexes.toml"])
            .expect(3)
            .says("being built")
            .says("wait for the build");
        let imported =
            project.run(&["index", "import", "live"]).expect(0).says("as.n_1 is being built: left out");
        assert!(imported.stdout.contains("as = []"), "{}", imported.stdout);
        fail_point("off").await;
        building.await.unwrap().unwrap();
        assert_eq!(project.drift("models.cjs"), NOTHING);
    }
}
