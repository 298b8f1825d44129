//! `Authentication`.

use super::read::{Read, at, list, map, optional_text, rule, text, texts};
use super::write::{string, string_map, strings};
use super::{decode_meta, pb};
use crate::name::Digest;
use crate::resource::kinds::raw::{RawAuthentication, RawJwt};
use crate::resource::kinds::{ApiKey, Authentication, Jwks, JwtIssuer, ProtectedResource};
use crate::wire::Object;

pub(super) fn encode(meta: Option<pb::Meta>, it: &Authentication) -> pb::Authentication {
    let Authentication { gateways, jwt, oauth, api_keys, federated_domains } = it;
    let oauth = oauth.as_ref().map(|oauth| {
        let ProtectedResource { resource, authorization_servers, scopes, required_scopes } = oauth;
        pb::ProtectedResource {
            resource: resource.to_string(),
            authorization_servers: strings(authorization_servers),
            scopes: strings(scopes),
            required_scopes: strings(required_scopes),
        }
    });
    let api_keys = api_keys.iter().map(|ApiKey { name, digest, tenant, caller, not_after }| pb::ApiKey {
        name: name.to_string(),
        sha256: digest.hex().to_owned(),
        tenant: string(tenant),
        caller: string(caller),
        not_after: string(not_after),
    });
    pb::Authentication {
        meta,
        gateways: string_map(gateways),
        jwt: jwt.iter().map(encode_jwt).collect(),
        oauth,
        api_keys: api_keys.collect(),
        federated_domains: strings(federated_domains),
    }
}

pub(super) fn decode(message: pb::Authentication) -> Read<Object<Authentication>> {
    let pb::Authentication { meta, gateways, jwt, oauth, api_keys, federated_domains } = message;
    let meta = decode_meta(meta)?;
    let raw = RawAuthentication {
        gateways: at("gateways", map(gateways, |value| text(&value)))?,
        jwt: at("jwt", list(jwt, decode_jwt))?,
        oauth: at("oauth", oauth.map(decode_oauth).transpose())?,
        api_keys: at("api_keys", list(api_keys, decode_api_key))?,
        federated_domains: at("federated_domains", texts(federated_domains))?,
    };
    Ok(Object { meta, spec: rule(Authentication::try_from(raw))? })
}

fn encode_jwt(jwt: &JwtIssuer) -> pb::JwtIssuer {
    let JwtIssuer { issuer, keys, audiences, tenant_claim, claims } = jwt;
    let (jwks_url, jwks) = match keys {
        Jwks::Url(url) => (url.to_string(), String::new()),
        Jwks::Inline(set) => (String::new(), set.to_string()),
    };
    pb::JwtIssuer {
        issuer: issuer.to_string(),
        jwks_url,
        jwks,
        audiences: strings(audiences),
        tenant_claim: string(tenant_claim),
        claims: claims.as_ref().map(|claims| pb::Claims { names: strings(claims) }),
    }
}

fn decode_jwt(message: pb::JwtIssuer) -> Read<JwtIssuer> {
    let pb::JwtIssuer { issuer, jwks_url, jwks, audiences, tenant_claim, claims } = message;
    let raw = RawJwt {
        issuer: at("issuer", text(&issuer))?,
        jwks_url: at("jwks_url", optional_text(&jwks_url))?,
        jwks: at("jwks", optional_text(&jwks))?,
        audiences: at("audiences", texts(audiences))?,
        tenant_claim: at("tenant_claim", optional_text(&tenant_claim))?,
        claims: at("claims", claims.map(|claims| texts(claims.names)).transpose())?,
    };
    rule(JwtIssuer::try_from(raw))
}

fn decode_oauth(message: pb::ProtectedResource) -> Read<ProtectedResource> {
    let pb::ProtectedResource { resource, authorization_servers, scopes, required_scopes } = message;
    Ok(ProtectedResource {
        resource: at("resource", text(&resource))?,
        authorization_servers: at("authorization_servers", texts(authorization_servers))?,
        scopes: at("scopes", texts(scopes))?,
        required_scopes: at("required_scopes", texts(required_scopes))?,
    })
}

fn decode_api_key(message: pb::ApiKey) -> Read<ApiKey> {
    let pb::ApiKey { name, sha256, tenant, caller, not_after } = message;
    Ok(ApiKey {
        name: at("name", text(&name))?,
        digest: at("sha256", rule(Digest::parse(&format!("sha256:{sha256}"))))?,
        tenant: at("tenant", optional_text(&tenant))?,
        caller: at("caller", optional_text(&caller))?,
        not_after: at("not_after", optional_text(&not_after))?,
    })
}
