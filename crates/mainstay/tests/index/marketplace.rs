//! The marketplace, declared in a Mongoose project and in a manifest: whoever builds the indexes, nobody finds anything to do.

use std::fs;

use mainstay_testkit::engines::Mongoose;
use mainstay_testkit::shared_mongod;
use marketplace::Collection;
use mongodb::bson::doc;

use crate::project::Project;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/marketplace/models");
const MANIFEST: &str = include_str!("../../../../examples/marketplace/indexes.toml");
/// The runbook's table of collections and their indexes.
const RUNBOOK: &[(&str, usize)] = &[
    ("users", 4),
    ("addresses", 2),
    ("purchaserequests", 4),
    ("selleroffers", 3),
    ("payments", 5),
    ("chats", 2),
    ("notifications", 2),
    ("tempverifications", 1),
];

fn copy_models(project: &Project) {
    for entry in fs::read_dir(MODELS).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        project.write(&format!("models/{name}"), &fs::read_to_string(&path).unwrap());
    }
}

async fn in_mongoose(major: Mongoose) {
    let mongod = shared_mongod();
    let project = Project::with(mongod, major).await;
    copy_models(&project);
    // Import: the runbook's table, complete, as the sample's manifest has it.
    let imported = project.json(&["index", "import", "mongoose", "models", "--output", "indexes.toml"], 0);
    let count: usize = RUNBOOK.iter().map(|(_, count)| count).sum();
    assert_eq!(
        (imported["collections"].as_u64(), imported["indexes"].as_u64()),
        (Some(8), Some(count as u64))
    );
    let read = |text: &str| mainstay_indexes::Manifest::parse(text).unwrap();
    let (ours, theirs) = (read(MANIFEST), read(&project.read("indexes.toml")));
    let specs = |manifest: &mainstay_indexes::Manifest, name: &str| {
        let mut specs: Vec<String> = manifest.collections[name]
            .iter()
            .map(|index| index.definition(&index.name(), &mainstay_indexes::Collation::Simple).to_string())
            .collect();
        specs.sort();
        specs
    };
    for (name, count) in RUNBOOK {
        assert_eq!(theirs.collections[*name].len(), *count, "{name}");
        assert_eq!(specs(&ours, name), specs(&theirs, name));
    }
    // Nothing is there yet; then stock Mongoose builds everything, and nothing differs.
    project.configure("indexes = \"indexes.toml\"\n");
    project.run(&["index", "drift"]).expect(3).says("23 to add").says("+  users.email_1").says("index plan");
    project.stock("create", "models");
    project.run(&["index", "drift"]).expect(0).says("has the 23 indexes that are declared");
    assert_eq!(project.stock_diff("models"), [""; 0]);
    let merged = project.json(&["index", "import", "mongoose", "models", "--merge"], 0);
    assert_eq!(merged["indexes"].as_array().unwrap().len(), count);

    // The other way round: a plan builds everything, and stock Mongoose has nothing to do.
    let project = Project::with(mongod, major).await;
    copy_models(&project);
    project
        .run(&["index", "import", "mongoose", "--output", "indexes.toml", "--", "node", "models/index.js"])
        .expect(0);
    project.configure("indexes = \"indexes.toml\"\n");
    project.apply();
    project.run(&["index", "drift"]).expect(0);
    assert_eq!(project.stock_diff("models"), [""; 0]);
    let synced = project.stock("sync", "models");
    assert!(
        synced.as_object().unwrap().values().all(|dropped| dropped.as_array().is_some_and(Vec::is_empty)),
        "{synced}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_in_mongoose_8() {
    in_mongoose(Mongoose::Eight).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_in_mongoose_9() {
    in_mongoose(Mongoose::Nine).await;
}

/// The sample's manifest is what its loader builds, special collections and all; what is imported from the server says the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_samples_manifest_is_what_is_loaded() {
    let project = Project::new(shared_mongod()).await;
    for collection in Collection::ALL {
        let mut create = doc! { "create": collection.name() };
        create.extend(collection.creation_options());
        project.command(create).await;
        let indexes = collection.indexes();
        if !indexes.is_empty() {
            project.build(collection.name(), &indexes).await;
        }
    }
    project.write("indexes.toml", MANIFEST);
    project.configure("indexes = \"indexes.toml\"\n");
    project.run(&["index", "drift"]).expect(0).says("has the 34 indexes that are declared");
    // What is there, imported, is what is there; `--output` never overwrites.
    project
        .run(&["index", "import", "live", "--output", "live.toml"])
        .expect(0)
        .says("pricehistory is a view or a time series");
    project.run(&["index", "import", "live", "--output", "live.toml"]).expect(8).says("exists already");
    project.run(&["index", "drift", "--manifest", "live.toml"]).expect(0);
    let printed =
        project.run(&["index", "import", "live", "--collection", "searchterms", "--quiet"]).expect(0);
    assert_eq!(
        printed.stdout,
        format!(
            "# Indexes: what {} has.\n[mongo.indexes]\nsearchterms = [\n  {{ keys = [\"term\"], unique = true }},\n  {{ keys = [\"-searches\"], collation = {{ locale = \"simple\" }} }},\n]\n",
            project.database
        )
    );
}
