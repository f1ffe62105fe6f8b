//! Which set is meant when none is named: of one form, of one server, of one database, or nobody's guess.

use crate::logical::{dumping, run, shop_server};
use crate::support::{another_server, configure};

#[test]
fn the_latest_is_never_a_guess() {
    let server = shop_server();
    let place = dumping(&server);
    let made = |arguments: &[&str]| {
        let made = run(&place, &[&["backup", "create", "--store", "postgres", "--json"], arguments].concat());
        made.expect(0).json()["set"]["id"].as_str().unwrap().to_owned()
    };
    let base = made(&[]);
    let dump = made(&["--logical", "--database", "postgres"]);
    let shown = |more: &[&str]| run(&place, &[&["backup", "show", "--store", "postgres"], more].concat());

    // The dump is newer, and is not what is meant unless it is said.
    shown(&[]).expect(0).says(&base);
    shown(&["--logical"]).expect(0).says(&dump);
    run(&place, &["backup", "verify", "latest", "--store", "postgres"]).expect(0).says(&base);
    run(&place, &["backup", "verify", "latest", "--store", "postgres", "--logical"]).expect(0).says(&dump);
    shown(&["--logical", &base]).expect(2).says("which is named");
    run(&place, &["backup", "show", "--store", "mongo", "--logical"])
        .expect(2)
        .says("--logical means nothing for mongo");

    let other_dump = made(&["--logical", "--database", "template1"]);
    let plan = ["restore", "plan", "--store", "postgres", "--into", "copy"];
    for ambiguous in [&[&plan[..], &["--logical"]].concat()[..], &["backup", "export", "latest", "out.dump"]]
    {
        run(&place, ambiguous)
            .expect(2)
            .says("it is not said which latest logical dump is meant")
            .says(&format!("{dump} of database postgres"))
            .says(&format!("{other_dump} of database template1"));
    }
    run(&place, &["backup", "export", &dump, "out.dump"]).expect(0);

    let other = another_server(&server);
    configure(&place, &other.uri(), "");
    let other_base = made(&[]);
    run(&place, &plan)
        .expect(2)
        .says("it is not said which latest base backup is meant")
        .says(&base)
        .says(&other_base)
        .says("name the set");
    run(&place, &[&plan[..], &[&base]].concat()).expect(0);

    // What means something for MongoDB alone is refused, not ignored.
    for parallel in
        [&plan[..], &["backup", "create", "--store", "postgres"], &["backup", "create", "--store", "redis"]]
    {
        run(&place, &[parallel, &["--parallel", "2"]].concat())
            .expect(2)
            .says("--parallel means nothing for");
    }
    let logical = ["backup", "create", "--store", "postgres", "--logical", "--parallel", "2"];
    run(&place, &logical).expect(2).says("--parallel means nothing for");
}
