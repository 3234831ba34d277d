//! Files that are replaced as a whole: whatever happens meanwhile, a reader finds the old bytes or the new ones.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// On disk when it returns. The rights are those of the old file; of a new one, its owner's alone. Makes the directory.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link to the real file stays a link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    if let Ok(old) = std::fs::metadata(&path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)?;
    // The rename is durable when the directory is.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::driver::scripts::tests::TempDir;

    #[test]
    fn a_file_is_replaced_with_its_rights_and_behind_its_link() {
        let dir = TempDir::new("durable");
        let (file, link) = (dir.path().join("below/file"), dir.path().join("link"));
        replace(&file, b"one").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(
            std::fs::read_dir(dir.path().join("below")).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }
}
