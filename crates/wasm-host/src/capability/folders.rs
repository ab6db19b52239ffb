//! Folders that guests find open, and the working directory that they are told.

use std::os::fd::{AsRawFd, OwnedFd};

use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

/// A folder of the machine.
#[derive(Debug)]
pub struct Folder {
    /// Where the guest sees it.
    pub path: String,
    /// Whether the guest may change what is in it.
    pub writable: bool,
    /// The folder.
    pub descriptor: OwnedFd,
}

/// What a function sees of files: nothing by default. The folders are opened once, and shared by its instances.
#[derive(Clone, Default)]
pub struct View {
    folders: Option<WasiFilesystemCtx>,
    working_directory: Option<String>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("working_directory", &self.working_directory)
            .finish_non_exhaustive()
    }
}

impl View {
    /// A view of these folders. An empty `working_directory` is none.
    ///
    /// # Errors
    /// When a descriptor is no folder.
    pub fn new(folders: &[Folder], working_directory: &str) -> wasmtime::Result<Self> {
        let mut view = Self {
            folders: None,
            working_directory: Some(working_directory.to_owned()).filter(|path| !path.is_empty()),
        };
        if folders.is_empty() {
            return Ok(view);
        }
        let mut wasi = WasiCtx::builder();
        for folder in folders {
            // wasmtime takes folders by name only; this one names the descriptor.
            let name = format!("/proc/self/fd/{}", folder.descriptor.as_raw_fd());
            let permissions = match folder.writable {
                true => FsPerms::ReadWrite,
                false => FsPerms::ReadOnly,
            };
            wasi.preopened_dir(name, &folder.path, permissions)?;
        }
        view.folders = Some(wasi.build().filesystem().clone());
        Ok(view)
    }

    /// Finishes the context of one instance.
    pub(crate) fn build(&self, mut wasi: WasiCtxBuilder) -> WasiCtx {
        if let Some(path) = &self.working_directory {
            wasi.initial_cwd(path);
        }
        let mut wasi = wasi.build();
        if let Some(folders) = &self.folders {
            *wasi.filesystem() = folders.clone();
        }
        wasi
    }
}
