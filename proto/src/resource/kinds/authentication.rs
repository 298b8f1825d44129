//! `Authentication`: how gateways know callers from outside the mesh.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Labels, is_default};
use crate::name::{Digest, ObjectName, TrustDomain, WebUrl};
use crate::resource::bounded::{List, Text};
use crate::resource::moment::Moment;

/// How gateways know callers from outside the mesh: at least one of `jwt`, `apiKeys` and `federatedDomains`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Raw", into = "Raw")]
#[schemars(with = "Raw")]
pub struct Authentication {
    pub gateways: Labels,
    pub jwt: List<JwtIssuer, 32>,
    pub oauth: Option<ProtectedResource>,
    pub api_keys: List<ApiKey, 1024>,
    pub federated_domains: List<TrustDomain, 64>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Authentication")]
pub(crate) struct Raw {
    /// Labels of the gateways it applies to; every gateway of the namespace if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) gateways: Labels,
    /// Issuers whose tokens are accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) jwt: List<JwtIssuer, 32>,
    /// What clients are told about where to get a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) oauth: Option<ProtectedResource>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) api_keys: List<ApiKey, 1024>,
    /// Trust domains whose client certificates are accepted; each must be federated in `Trust`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) federated_domains: List<TrustDomain, 64>,
}

impl TryFrom<Raw> for Authentication {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let Raw { gateways, jwt, oauth, api_keys, federated_domains } = raw;
        if jwt.is_empty() && api_keys.is_empty() && federated_domains.is_empty() {
            return Err("at least one of jwt, apiKeys and federatedDomains must be given");
        }
        Ok(Self { gateways, jwt, oauth, api_keys, federated_domains })
    }
}

impl From<Authentication> for Raw {
    fn from(it: Authentication) -> Self {
        let Authentication { gateways, jwt, oauth, api_keys, federated_domains } = it;
        Self { gateways, jwt, oauth, api_keys, federated_domains }
    }
}

/// An issuer of JSON Web Tokens. Its keys come from exactly one of `jwksUrl` and `jwks`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawJwt", into = "RawJwt")]
#[schemars(with = "RawJwt")]
pub struct JwtIssuer {
    pub issuer: WebUrl,
    pub keys: Jwks,
    pub audiences: List<Text<512>, 16, 1>,
    pub tenant_claim: Option<Text<128>>,
    pub claims: Option<List<Text<128>, 32>>,
}

impl JwtIssuer {
    /// The claims that policies see where nothing is said.
    pub const CLAIMS_USUAL: [&str; 5] = ["sub", "client_id", "scope", "groups", "roles"];
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Jwks {
    Url(WebUrl),
    /// A JWK set, as JSON.
    Inline(Text<65536>),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "JwtIssuer")]
pub(crate) struct RawJwt {
    /// The `iss` claim.
    pub(crate) issuer: WebUrl,
    /// Where its keys are fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jwks_url: Option<WebUrl>,
    /// Its keys as a JWK set in JSON, instead of a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jwks: Option<Text<65536>>,
    /// Values of the `aud` claim of which one must be present. The resource that is called counts among these where
    /// `oauth` names it.
    pub(crate) audiences: List<Text<512>, 16, 1>,
    /// The claim that names the caller's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_claim: Option<Text<128>>,
    /// The claims that policies see; `sub`, `client_id`, `scope`, `groups` and `roles` if not given. Of `scope` each
    /// word is a value of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claims: Option<List<Text<128>, 32>>,
}

impl TryFrom<RawJwt> for JwtIssuer {
    type Error = &'static str;

    fn try_from(raw: RawJwt) -> Result<Self, &'static str> {
        let keys = match (raw.jwks_url, raw.jwks) {
            (Some(url), None) => Jwks::Url(url),
            (None, Some(set)) => Jwks::Inline(set),
            _ => return Err("exactly one of jwksUrl and jwks must be given"),
        };
        let RawJwt { issuer, audiences, tenant_claim, claims, .. } = raw;
        Ok(Self { issuer, keys, audiences, tenant_claim, claims })
    }
}

impl From<JwtIssuer> for RawJwt {
    fn from(it: JwtIssuer) -> Self {
        let (jwks_url, jwks) = match it.keys.clone() {
            Jwks::Url(url) => (Some(url), None),
            Jwks::Inline(set) => (None, Some(set)),
        };
        let JwtIssuer { issuer, keys: _, audiences, tenant_claim, claims } = it;
        Self { issuer, jwks_url, jwks, audiences, tenant_claim, claims }
    }
}

/// What clients are told about where to get a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtectedResource {
    /// The resource identifier that tokens must be issued for. Where it is the public address of the gateway, without a
    /// path, each endpoint there is a resource of its own: its address.
    pub resource: WebUrl,
    pub authorization_servers: List<WebUrl, 8, 1>,
    /// Scopes that clients are told of. A token need not have them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scopes: List<Text<128>, 64>,
    /// Scopes that every token needs. Whoever lacks one is told which.
    #[serde(default, skip_serializing_if = "is_default")]
    pub required_scopes: List<Text<128>, 64>,
}

/// An API key, by its digest: the key itself is never configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    pub name: ObjectName,
    /// SHA-256 of the key.
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Text<128>>,
    /// Who calls with it; its own name if not given. Keys of one caller can be exchanged without the caller becoming
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<ObjectName>,
    /// From when on it is refused; never if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Moment>,
}
