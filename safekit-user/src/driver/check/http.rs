//! A page that is answered with the right status, and with the right text in it. Redirections are answers too: they
//! are not followed.

use std::io;
use std::sync::{Arc, OnceLock};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Ends;
use super::process::pattern;
use super::sight::Seen;

/// A pattern sees so much of the body.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Http {
    url: String,
    /// From and to.
    status: (u16, u16),
    /// An error: no answer is right, and every look says why.
    body: Option<Result<Regex, String>>,
    verify: bool,
    /// The authorities are read at the first look that needs them.
    tls: OnceLock<Arc<ClientConfig>>,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the URL cannot be used: {0}")]
    Url(#[from] hyper::http::uri::InvalidUri),
    #[error("the URL cannot be used: it begins neither with http:// nor with https:// and a host")]
    Scheme,
    #[error("the URL cannot be used: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("the URL cannot be used: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("no answer: {0}")]
    Answer(#[from] hyper::Error),
    #[error("{0}")]
    Pattern(String),
}

struct Target {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Http {
    pub(super) fn new(url: &str, status: (u16, u16), body: Option<&str>, verify: bool) -> Self {
        let body = body.map(pattern);
        Self { url: url.to_owned(), status, body, verify, tls: OnceLock::new() }
    }

    pub(super) async fn look(&self) -> Seen {
        self.fetch().await.unwrap_or_else(|fault| Seen::down(fault.to_string()))
    }

    async fn fetch(&self) -> Result<Seen, Fault> {
        let target = Target::parse(&self.url)?;
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(Fault::Connect)?;
        if !target.is_tls {
            return self.exchange(&target, stream).await;
        }
        let name = ServerName::try_from(target.host.clone())?;
        let connector =
            TlsConnector::from(Arc::clone(self.tls.get_or_init(|| client(self.verify.then(authorities)))));
        let stream = connector.connect(name, stream).await.map_err(Fault::Tls)?;
        self.exchange(&target, stream).await
    }

    async fn exchange<S>(&self, target: &Target, stream: S) -> Result<Seen, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let _connection = Ends(tokio::spawn(async move {
            // What goes wrong there is told to who waits for the answer.
            let _told = connection.await;
        }));
        let answer = sender.send_request(target.request()?).await?;
        self.judge(answer).await
    }

    async fn judge(&self, answer: Response<Incoming>) -> Result<Seen, Fault> {
        let status = answer.status();
        let (from, to) = self.status;
        if !(from..=to).contains(&status.as_u16()) {
            return Ok(Seen::down(format!("status {status}, {from} to {to} expected")));
        }
        let Some(pattern) = &self.body else { return Ok(Seen::up(format!("status {status}"))) };
        let pattern = pattern.as_ref().map_err(|error| Fault::Pattern(error.clone()))?;
        let body = beginning(answer.into_body()).await?;
        if pattern.is_match(&body) {
            Ok(Seen::up(format!("status {status}, the body matches")))
        } else {
            Ok(Seen::down(format!("status {status}, but {pattern} is not in the body")))
        }
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self, Fault> {
        let uri: Uri = url.parse()?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Fault::Scheme),
        };
        // An IPv6 address stands in brackets there, and in no other place.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        if host.is_empty() { Err(Fault::Scheme) } else { Ok(Self { uri, host, port, is_tls }) }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let host = self.uri.host().unwrap_or_default();
        let host = match self.uri.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, "safekit")
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::new())
    }
}

async fn beginning(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut kept = Vec::new();
    while kept.len() < BODY_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            let room = BODY_BYTES_MAX - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(kept)
}

/// With no authorities, anybody is trusted.
fn client(trusted: Option<RootCertStore>) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of the default versions");
    let config = match trusted {
        Some(authorities) => builder.with_root_certificates(authorities).with_no_client_auth(),
        None => {
            let anybody = Arc::new(Anybody { provider });
            builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
        }
    };
    Arc::new(config)
}

/// Those of the machine. With none, every certificate is refused, and the check says so.
fn authorities() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read the certificates of authorities");
    }
    store.add_parsable_certificates(found.certs);
    store
}

/// `verify: false`: whether somebody answers, not who.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _shown: &CertificateDer<'_>,
        _more: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |url: &str| {
            let target = Target::parse(url).ok()?;
            let request = target.request().ok()?;
            let host = request.headers()[HOST].to_str().ok()?.to_owned();
            Some((target.host, target.port, target.is_tls, host, request.uri().to_string()))
        };
        let expected = |host: &str, port, is_tls, header: &str, path: &str| {
            Some((host.to_owned(), port, is_tls, header.to_owned(), path.to_owned()))
        };
        assert_eq!(parts("http://a.b/c?d=e"), expected("a.b", 80, false, "a.b", "/c?d=e"));
        assert_eq!(parts("https://a.b"), expected("a.b", 443, true, "a.b", "/"));
        assert_eq!(
            parts("http://u:p@[fd00::1]:8080/"),
            expected("fd00::1", 8080, false, "[fd00::1]:8080", "/")
        );
        for bad in ["", "/", "a.b", "ftp://a.b/", "http://", "http:// a/", "https:///x"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_vouches_for_is_refused_unless_it_need_not_be_verified() {
        let server = serve_tls().await;
        let url = format!("https://127.0.0.1:{server}/");
        let look = async |verify, trusted: Option<RootCertStore>| {
            let http = Http::new(&url, (200, 299), Some("on$"), verify);
            if trusted.is_some() {
                assert!(http.tls.set(client(trusted)).is_ok(), "nobody has looked yet");
            }
            http.look().await
        };
        assert_eq!(look(false, None).await, Seen::up("status 200 OK, the body matches"));
        let refused = look(true, None).await;
        assert!(!refused.up && refused.output.starts_with("no TLS: invalid peer certificate"), "{refused:?}");
        let mut store = RootCertStore::empty();
        store.add(bytes(CERTIFICATE).into()).expect("a certificate");
        assert_eq!(look(true, Some(store.clone())).await, Seen::up("status 200 OK, the body matches"));
        let other_name = Http::new(&format!("https://localhost:{server}/"), (200, 299), None, true);
        assert!(other_name.tls.set(client(Some(store))).is_ok(), "nobody has looked yet");
        let refused = other_name.look().await;
        assert!(!refused.up && refused.output.contains("not valid for name"), "{refused:?}");
    }

    async fn serve_tls() -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let provider = Arc::new(ring::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(bytes(KEY));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![bytes(CERTIFICATE).into()], key.into())
            .expect("the key fits the certificate");
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(mut client) = acceptor.accept(client).await else { continue };
                let _asked = client.read(&mut [0; 1024]).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall is on";
                let _answered = client.write_all(answer).await;
                let _closed = client.shutdown().await;
            }
        });
        port
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    /// Of 127.0.0.1, by nobody but itself, for a hundred years; made for this test and used nowhere else.
    const CERTIFICATE: &str = "\
        308201673082010ca003020102021461eac3865694c64f432fa0d9721668503c6be4dc300a06082a8648ce3d04030230\
        11310f300d06035504030c06636865636b733020170d3236313132333039303230345a180f3231323631303330303930\
        3230345a3011310f300d06035504030c06636865636b733059301306072a8648ce3d020106082a8648ce3d0301070342\
        0004c3d3fa0f584e679c76a65de2e0df836902dd3aa93f4191ee7774bba4c6b3d8871b41d518c6a2c66b8c95813e7c52\
        db0e65431730ee715a03b4521bfc5614a2e3a340303e300c0603551d130101ff04023000300f0603551d110408300687\
        047f000001301d0603551d0e041604143c98e020f90b4bf4a0596ff625b7432e3dfc1883300a06082a8648ce3d040302\
        0349003046022100ed28a24a9d9265ec81e73540db91cf60fe1e5c0bf63cb722cc111d7dd77d1ccc0221008927f8bd40\
        4d3d0e702ef129172d19f849d2aebe099c3151bbb0a72ba738a6f6";
    const KEY: &str = "\
        308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b02010104205de67f55097d65784fc53494\
        9d18aec18b7d8ae834683e1912c6f7ec8752de56a14403420004c3d3fa0f584e679c76a65de2e0df836902dd3aa93f41\
        91ee7774bba4c6b3d8871b41d518c6a2c66b8c95813e7c52db0e65431730ee715a03b4521bfc5614a2e3";
}
