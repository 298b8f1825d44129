//! `StdioLocation`.

use super::read::{Read, at, map, nonzero, optional_text, size, text, texts};
use super::write::{nonzero as write_nonzero, string, string_map, strings, unless_default};
use super::{choice, pb};
use crate::resource::kinds::{Sandbox, Sharing, Stdio};
use crate::resource::units::ByteSize;

pub(super) fn encode(stdio: &Stdio) -> pb::StdioLocation {
    let Stdio { command, args, env, working_directory, sharing, sandbox } = stdio;
    pb::StdioLocation {
        command: command.to_string(),
        args: strings(args),
        env: string_map(env),
        working_directory: string(working_directory),
        sharing: choice::sharing::encode(*sharing),
        sandbox: unless_default(sandbox, encode_sandbox),
    }
}

pub(super) fn decode(message: pb::StdioLocation) -> Read<Stdio> {
    let pb::StdioLocation { command, args, env, working_directory, sharing, sandbox } = message;
    Ok(Stdio {
        command: at("command", text(&command))?,
        args: at("args", texts(args))?,
        env: at("env", map(env, |value| text(&value)))?,
        working_directory: at("working_directory", optional_text(&working_directory))?,
        sharing: at("sharing", decode_sharing(sharing))?,
        sandbox: at("sandbox", decode_sandbox(sandbox.unwrap_or_default()))?,
    })
}

/// The choice came after the message that it is in, so that not to be given means what was meant before.
fn decode_sharing(number: i32) -> Read<Sharing> {
    match number {
        0 => Ok(Sharing::default()),
        number => choice::sharing::decode(number),
    }
}

fn encode_sandbox(sandbox: &Sandbox) -> pb::Sandbox {
    let Sandbox {
        allow_new_privileges,
        memory_max,
        processes_max,
        open_files_max,
        cpu_seconds_max,
        read_only_paths,
        read_write_paths,
    } = sandbox;
    pb::Sandbox {
        allow_new_privileges: *allow_new_privileges,
        memory_bytes_max: memory_max.map(ByteSize::bytes),
        processes_max: write_nonzero(*processes_max),
        open_files_max: open_files_max.map_or(0, |count| count.get()),
        cpu_seconds_max: write_nonzero(*cpu_seconds_max),
        read_only_paths: strings(read_only_paths),
        read_write_paths: strings(read_write_paths),
    }
}

fn decode_sandbox(message: pb::Sandbox) -> Read<Sandbox> {
    let pb::Sandbox {
        allow_new_privileges,
        memory_bytes_max,
        processes_max,
        open_files_max,
        cpu_seconds_max,
        read_only_paths,
        read_write_paths,
    } = message;
    Ok(Sandbox {
        allow_new_privileges,
        memory_max: at("memory_bytes_max", memory_bytes_max.map(size).transpose())?,
        processes_max: at("processes_max", nonzero(processes_max))?,
        open_files_max: at("open_files_max", nonzero(open_files_max))?,
        cpu_seconds_max: at("cpu_seconds_max", nonzero(cpu_seconds_max))?,
        read_only_paths: at("read_only_paths", texts(read_only_paths))?,
        read_write_paths: at("read_write_paths", texts(read_write_paths))?,
    })
}
