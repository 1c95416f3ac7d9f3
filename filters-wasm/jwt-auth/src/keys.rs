//! A JSON Web Key Set, and signatures made with its keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::BoxedUint;
use rsa::signature::Verifier as _;
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

use crate::token::{Algorithm, Rejected, Token};

/// An issuer has a handful; a set without end would make each unknown token expensive.
const MAX_KEYS: usize = 64;
/// Less is not safe any more, more is not needed and slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

pub(crate) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    public: Public,
}

enum Public {
    Rsa(rsa::pkcs1v15::VerifyingKey<Sha256>),
    P256(p256::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// The keys of a set that are for signatures of a known kind; others are none of ours. One that
    /// should be and cannot be used is an error.
    pub(crate) fn of(set: &Value) -> Result<Self, String> {
        let (keys, unusable) = usable(set)?;
        match unusable.into_iter().next() {
            Some(why) => Err(why),
            None => Self::some(keys),
        }
    }

    /// The same of the text of a set that somebody else keeps, and what is wrong with the keys that
    /// were left out: a new kind of key must not take away those that are known (RFC 7517, 5).
    pub(crate) fn read(text: &[u8]) -> Result<(Self, Vec<String>), String> {
        let set: Value = serde_json::from_slice(text).map_err(|err| err.to_string())?;
        let (keys, unusable) = usable(&set)?;
        if keys.is_empty()
            && let Some(why) = unusable.first()
        {
            return Err(format!("it has no key that can be used: {why}"));
        }
        Ok((Self::some(keys)?, unusable))
    }

    fn some(keys: Vec<Key>) -> Result<Self, String> {
        if keys.is_empty() {
            return Err("it has no key for RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self(keys))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of the keys has signed the token: the one that it names, if it names one.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Result<(), Rejected> {
        let mut found = false;
        for key in &self.0 {
            let named = match (&token.key_id, &key.id) {
                (Some(wanted), Some(id)) => wanted == id,
                (Some(_), None) | (None, _) => true,
            };
            // The key decides how a signature is checked, never the token alone.
            if !named || key.public.algorithm() != token.algorithm {
                continue;
            }
            found = true;
            if key.public.has_signed(token) {
                return Ok(());
            }
        }
        Err(if found {
            Rejected::Signature
        } else {
            Rejected::UnknownKey
        })
    }
}

/// The keys of a set, and why others that should be among them are not.
fn usable(set: &Value) -> Result<(Vec<Key>, Vec<String>), String> {
    let set = Set::deserialize(set).map_err(|err| format!("it is no JSON Web Key Set: {err}"))?;
    if set.keys.len() > MAX_KEYS {
        return Err(format!("it has more than {MAX_KEYS} keys"));
    }
    let (mut keys, mut unusable) = (Vec::new(), Vec::new());
    for (at, value) in set.keys.iter().enumerate() {
        let jwk = Jwk::deserialize(value).map_err(|err| err.to_string());
        match jwk.and_then(Jwk::key) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {}
            Err(why) => unusable.push(format!("its key {at}: {why}")),
        }
    }
    Ok((keys, unusable))
}

impl Jwk {
    fn key(self) -> Result<Option<Key>, String> {
        let public = self.public()?;
        Ok(public.map(|public| Key {
            id: self.kid,
            public,
        }))
    }

    /// None where it is for something else.
    fn public(&self) -> Result<Option<Public>, String> {
        if self
            .purpose
            .as_deref()
            .is_some_and(|purpose| purpose != "sig")
        {
            return Ok(None);
        }
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Algorithm::Rs256,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            _ => return Ok(None),
        };
        // One for another algorithm, as for encryption, need not be a key that can be used here.
        let other = |alg: &str| Algorithm::named(alg) != Some(algorithm);
        if self.alg.as_deref().is_some_and(other) {
            return Ok(None);
        }
        Ok(Some(match algorithm {
            Algorithm::Rs256 => Public::Rsa(self.rsa()?),
            Algorithm::Es256 => Public::P256(self.p256()?),
            Algorithm::EdDsa => Public::Ed25519(self.ed25519()?),
        }))
    }

    fn rsa(&self) -> Result<rsa::pkcs1v15::VerifyingKey<Sha256>, String> {
        let number = |name, field: &Option<String>| -> Result<BoxedUint, String> {
            Ok(BoxedUint::from_be_slice_vartime(&decode(name, field)?))
        };
        let (n, e) = (number("n", &self.n)?, number("e", &self.e)?);
        let key = rsa::PublicKey::new_with_size_limits(n, e, RSA_BITS)
            .map_err(|err| format!("it is no RSA key of 2048 to 4096 bits: {err}"))?;
        Ok(rsa::pkcs1v15::VerifyingKey::new(key))
    }

    fn p256(&self) -> Result<p256::ecdsa::VerifyingKey, String> {
        let (x, y) = (decode("x", &self.x)?, decode("y", &self.y)?);
        // Uncompressed, as SEC 1 writes a point.
        let point = [&[4], &x[..], &y[..]].concat();
        p256::ecdsa::VerifyingKey::from_sec1_bytes(&point)
            .map_err(|_| "x and y are no point of P-256".to_owned())
    }

    fn ed25519(&self) -> Result<ed25519_dalek::VerifyingKey, String> {
        let bytes = <[u8; 32]>::try_from(decode("x", &self.x)?)
            .map_err(|_| "x has not 32 bytes".to_owned())?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes)
            .map_err(|_| "x is no point of Ed25519".to_owned())
    }
}

fn decode(name: &str, field: &Option<String>) -> Result<Vec<u8>, String> {
    let text = field
        .as_deref()
        .ok_or_else(|| format!("{name} is missing"))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| format!("{name} is not base64url"))
}

impl Public {
    const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn has_signed(&self, token: &Token<'_>) -> bool {
        let (message, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        match self {
            Self::Rsa(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        }
    }
}
