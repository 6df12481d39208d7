//! What was written is taken back, and nothing else.

use std::os::unix::fs::symlink;

use super::*;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tombolo-record-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn written(root: &Path) -> Record {
    let config = root.join("etc/tombolo");
    let mut record = Record::open(&config.join("joined.json")).unwrap();
    record.directory(&config, 0o700).unwrap();
    record
        .file(&config.join("edgecore.yaml"), b"node_name: a\n", 0o600)
        .unwrap();
    record
        .shared(&root.join("etc/cni/net.d/90-tombolo.conflist"), b"{}", 0o644)
        .unwrap();
    record.tree(&root.join("var/lib/tombolo"), 0o700).unwrap();
    record
}

fn left(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let below: Vec<_> = found
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|path| left(path))
        .collect();
    found.extend(below);
    found
}

#[test]
fn undoing_everything_leaves_nothing_behind() {
    let root = scratch("all");
    let mut record = written(&root);
    fs::write(root.join("var/lib/tombolo/db"), "x").unwrap();
    assert_eq!(record.undo(0), Left::default());
    assert_eq!(left(&root), Vec::<PathBuf>::new());
}

#[test]
fn the_record_is_read_back_by_another_process() {
    let root = scratch("again");
    let record = written(&root);
    let again = Record::open(&root.join("etc/tombolo/joined.json")).unwrap();
    assert_eq!(again.entries(), record.entries());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_someone_changed_or_added_is_left_alone_and_named() {
    let root = scratch("foreign");
    let mut record = written(&root);
    let network = root.join("etc/cni/net.d/90-tombolo.conflist");
    fs::write(&network, "{\"changed\": true}").unwrap();
    fs::write(root.join("etc/tombolo/notes.txt"), "mine").unwrap();
    let told = record.undo(0);
    assert_eq!(told.troubles, Vec::<String>::new());
    assert_eq!(told.kept.len(), 2, "{told:?}");
    assert!(
        told.kept[0].contains("90-tombolo.conflist was changed"),
        "{told:?}"
    );
    assert!(told.kept[1].contains("in it: notes.txt"), "{told:?}");
    assert!(network.exists() && root.join("etc/tombolo/notes.txt").exists());
    assert!(!root.join("etc/tombolo/edgecore.yaml").exists());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_link_that_could_not_be_made_is_not_ours() {
    let root = scratch("link");
    let mut record = written(&root);
    let before = record.entries().len();
    let (ours, others) = (root.join("cni/ours"), root.join("cni/others"));
    fs::create_dir_all(&others).unwrap();
    assert!(record.link(&others, Path::new("/bin/edgecore")).is_err());
    assert_eq!(record.entries().len(), before);
    for target in ["/bin/edgecore", "/bin/newer"] {
        record.link(&ours, Path::new(target)).unwrap();
        assert_eq!(fs::read_link(&ours).unwrap(), Path::new(target));
    }
    assert_eq!(record.undo(0), Left::default());
    assert!(!ours.is_symlink() && others.is_dir());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn only_what_came_after_a_point_is_taken_back() {
    let root = scratch("part");
    let mut record = written(&root);
    let keep = record.entries().len();
    record.file(&root.join("etc/tombolo/late"), b"", 0o600).unwrap();
    assert_eq!(record.undo(keep), Left::default());
    assert!(root.join("etc/tombolo/edgecore.yaml").exists() && !root.join("etc/tombolo/late").exists());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn secrets_are_readable_by_root_alone() {
    let root = scratch("mode");
    replace(&root.join("key"), b"secret", 0o600).unwrap();
    let mode = fs::metadata(root.join("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_cannot_be_removed_is_named_and_stays_in_the_record() {
    let root = scratch("stuck");
    let mut record = written(&root);
    let config = root.join("etc/tombolo/edgecore.yaml");
    fs::remove_file(&config).unwrap();
    fs::create_dir_all(config.join("in the way")).unwrap();
    let left = record.undo(0);
    assert_eq!(left.troubles.len(), 1);
    assert!(
        left.troubles[0].contains("edgecore.yaml could not be removed"),
        "{left:?}"
    );

    let mut record = Record::open(&root.join("etc/tombolo/joined.json")).unwrap();
    let mut named = record.entries().iter().map(Entry::path);
    assert!(named.any(|path| path == config));
    assert!(
        !record
            .entries()
            .iter()
            .any(|entry| matches!(entry, Entry::Tree { .. }))
    );
    fs::remove_dir_all(&config).unwrap();
    assert_eq!(record.undo(0), Left::default());
    assert!(self::left(&root).is_empty());
}

#[test]
fn what_a_power_cut_left_beside_a_file_goes_with_it() {
    let root = scratch("cut");
    let mut record = written(&root);
    fs::write(root.join("etc/tombolo/edgecore.yaml.new"), "proxy: secret").unwrap();
    fs::write(root.join("etc/tombolo/joined.json.new"), "[").unwrap();
    assert_eq!(record.undo(0), Left::default());
    assert!(left(&root).is_empty());
}

#[test]
fn a_write_that_fails_leaves_nothing_beside() {
    let root = scratch("failed-write");
    fs::create_dir_all(root.join("key/in the way")).unwrap();
    replace(&root.join("key"), b"secret", 0o600).unwrap_err();
    assert!(!root.join("key.new").exists());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_tree_behind_a_link_is_emptied_and_one_that_may_be_others_is_not() {
    let root = scratch("linked");
    fs::create_dir_all(root.join("var/lib")).unwrap();
    fs::create_dir_all(root.join("data/tombolo/meta")).unwrap();
    fs::write(root.join("data/tombolo/meta/db"), "secrets").unwrap();
    let state = root.join("var/lib/tombolo");
    symlink(root.join("data/tombolo"), &state).unwrap();
    let mut record = written(&root);
    let left = record.undo(0);
    assert!(
        left.troubles.is_empty() && left.kept[0].contains("was emptied"),
        "{left:?}"
    );
    assert_eq!(fs::read_dir(root.join("data/tombolo")).unwrap().count(), 0);

    fs::write(root.join("data/recipe"), "the site's").unwrap();
    fs::remove_file(&state).unwrap();
    symlink(root.join("data"), &state).unwrap();
    let mut record = written(&root);
    let left = record.undo(0);
    assert!(left.troubles[0].contains("may be others' too"), "{left:?}");
    assert!(root.join("data/recipe").exists());
    fs::remove_dir_all(root).unwrap();
}
