//! A local stub of an endpoint: well, failing, slow and garbage, by the model's name.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// Every request that came: its path, authorization and body.
pub(crate) type Seen = Arc<Mutex<Vec<(String, Option<String>, Value)>>>;

/// Where it answers, and what it has seen.
pub(crate) fn serve() -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let seen = Seen::default();
    let shared = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = shared.clone();
            std::thread::spawn(move || answer(stream, &seen));
        }
    });
    (address, seen)
}

fn answer(mut stream: TcpStream, seen: &Seen) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let path = head
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or("")
        .to_owned();
    let model = body["model"].as_str().unwrap_or("").to_owned();
    let before = {
        let mut seen = seen.lock().expect("not poisoned");
        let before = seen
            .iter()
            .filter(|(_, _, earlier)| earlier["model"] == body["model"])
            .count();
        seen.push((path, header("authorization"), body.clone()));
        before
    };
    let said = format!("{model} says {}", body["messages"].as_array().map_or(0, Vec::len));
    let (status, text) = match model.as_str() {
        "failing" => ("500 Internal Server Error", "out of order".to_owned()),
        "forbidden" => ("401 Unauthorized", "{\"error\": \"no such key\"}".to_owned()),
        "slow" => {
            std::thread::sleep(Duration::from_secs(3));
            ("200 OK", completion("too late"))
        }
        "garbage" => ("200 OK", "<html>this is not JSON</html>".to_owned()),
        "lying" => ("200 OK", "{\"choices\": []}".to_owned()),
        "silent" => ("200 OK", completion("  ")),
        "recovering" if before < 2 => ("503 Service Unavailable", "busy".to_owned()),
        "cut" => {
            // The connection ends in the middle of an answer.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\"");
            return;
        }
        _ if body["stream"] == true => {
            let pieces = ["stre", "am", "ed"].map(|piece| {
                let chunk = json!({"choices": [{"delta": {"content": piece}}]});
                format!("data: {chunk}\n\n")
            });
            ("200 OK", format!(": hello\n\n{}data: [DONE]\n\n", pieces.concat()))
        }
        _ => ("200 OK", completion(&said)),
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
}

fn completion(text: &str) -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"completion_tokens": 7},
    })
    .to_string()
}
