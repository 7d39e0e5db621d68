//! `exec`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::arguments::Exec;
use crate::create::{config, console, send, write_pid};
use crate::error::Error;
use crate::foreground;
use crate::message::{Answer, Request, ask};
use crate::place::Place;

/// Runs a further process; unless detached, waits for its end and returns its code.
pub(crate) fn exec(root: &Path, asked: Exec) -> Result<u8, Error> {
    let place = Place::find(root, &asked.id)?;
    let process = match &asked.process {
        Some(path) => {
            let text = fs::read(path).map_err(Error::file("read", path))?;
            serde_json::from_slice(&text).map_err(|source| Error::Json {
                path: path.clone(),
                source,
            })?
        }
        None => like(&config(&place.read()?.bundle)?["process"], &asked)?,
    };
    let terminal = process["terminal"] == true;
    let console = console(terminal, asked.console_socket.as_deref())?;
    let request = Request::Exec { process, terminal };
    let signals = foreground::hold_back()?;
    let answer = send(&place, &request, console.as_ref())?;
    let Answer::Running { exec, pid } = answer else {
        return Err(answer.unexpected());
    };
    if let Some(file) = &asked.pid_file
        && let Err(error) = write_pid(file, pid)
    {
        let kill = Request::Kill {
            exec: Some(exec),
            signal: 9,
            all: false,
        };
        ask(&place, &kill, &[])?;
        return Err(error);
    }
    if asked.detach {
        return Ok(0);
    }
    foreground::wait(&place, Some(exec), signals)
}

/// The container's process with other arguments, as runc makes it.
fn like(container: &Value, asked: &Exec) -> Result<Value, Error> {
    let mut process = container.clone();
    process["args"] = json!(asked.args);
    process["terminal"] = asked.tty.into();
    if let Some(cwd) = &asked.cwd {
        process["cwd"] = json!(cwd);
    }
    if !asked.env.is_empty() {
        let inherited = process["env"].as_array().cloned().unwrap_or_default();
        let added = asked.env.iter().map(|variable| json!(variable));
        process["env"] = inherited.into_iter().chain(added).collect();
    }
    if let Some(user) = &asked.user {
        let mut ids = user.splitn(2, ':').map(str::parse::<u32>);
        let (uid, gid) = (ids.next(), ids.next());
        let (Some(Ok(uid)), None | Some(Ok(_))) = (uid, &gid) else {
            return Err(Error::Argument {
                field: "--user",
                value: user.clone(),
                why: "is not uid or uid:gid",
            });
        };
        process["user"]["uid"] = uid.into();
        if let Some(Ok(gid)) = gid {
            process["user"]["gid"] = gid.into();
        }
    }
    Ok(process)
}
