//! TLS 1.3 between nodes, both sides shown to be who they say by raw public keys (RFC 7250).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};

use crate::config::Config;
use crate::types::{ClusterKey, NodeId};
use crate::wire::identity::Identity;

/// What this node shows, and what each other node may show.
#[derive(Debug)]
pub struct Identities {
    own: Arc<CertifiedKey>,
    /// Public keys and whose they are: one a node, two while the cluster key changes.
    known: Vec<(Vec<u8>, NodeId)>,
    provider: Arc<CryptoProvider>,
}

impl Identities {
    /// This node shows what is derived from the first key; others may go by any of them.
    pub fn of(keys: &[ClusterKey], config: &Config, me: NodeId) -> Arc<Self> {
        let cluster = &config.cluster;
        let sending = keys.first().expect("a cluster has a key");
        let own = Identity::of(sending, &cluster.name, config.name(me));
        let signing = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(own.private()))
            .expect("an Ed25519 key in PKCS #8 is what this takes");
        let others = (0..cluster.nodes.len()).map(|node| NodeId(node as u8)).filter(|node| *node != me);
        let known = others
            .flat_map(|node| {
                let name = config.name(node);
                keys.iter().map(move |key| (Identity::of(key, &cluster.name, name).public, node))
            })
            .collect();
        let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(own.public)], signing));
        Arc::new(Self { own, known, provider: Arc::new(ring::default_provider()) })
    }

    /// Whose public key this is.
    pub fn owner(&self, public: &[u8]) -> Option<NodeId> {
        self.known.iter().find(|(known, _)| known == public).map(|(_, node)| *node)
    }

    /// For a connection to `peer`. Nothing is resumed: a session must not outlive the key that it was begun with.
    pub fn dial(self: &Arc<Self>, peer: NodeId) -> Arc<ClientConfig> {
        let verifier = Verifier { identities: Arc::clone(self), expected: Some(peer) };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("ring has the suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
                &self.own,
            ))));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Arc::new(config)
    }

    /// For connections from the others.
    pub fn listen(self: &Arc<Self>) -> Arc<ServerConfig> {
        let verifier = Verifier { identities: Arc::clone(self), expected: None };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("ring has the suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.own))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }
}

/// The name that TLS wants of a server; the key is what counts.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("safekit").expect("it is a host name")
}

#[derive(Debug)]
struct Verifier {
    identities: Arc<Identities>,
    /// None: any of the others.
    expected: Option<NodeId>,
}

impl Verifier {
    fn check(&self, shown: &[u8]) -> Result<(), Error> {
        match (self.identities.owner(shown), self.expected) {
            (None, _) => Err(CertificateError::UnknownIssuer.into()),
            (Some(owner), Some(expected)) if owner != expected => {
                Err(CertificateError::NotValidForName.into())
            }
            (Some(_), _) => Ok(()),
        }
    }

    fn signed(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, self.algorithms())
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.identities.provider.signature_verification_algorithms
    }
}

fn only_tls13() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _more: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _more: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
