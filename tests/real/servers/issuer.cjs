// An OAuth server, `oidc-provider`: it knows everybody who says a name, and consents at once. Tokens are JSON Web Tokens
// for the resource that was asked for, with the groups of whoever they are for. Prints where it is when it is ready.
//
//     NODE_PATH=<node_modules> node issuer.cjs
'use strict';

const { generateKeyPairSync } = require('node:crypto');
const http = require('node:http');
const { default: Provider } = require('oidc-provider');

const GROUPS = { ann: ['dev'], bob: ['guests'], eve: ['dev'] };
// Who would not have an agent do more than read.
const READERS = ['eve'];
// A client that is known before it comes. One that registers itself is kept to the scopes that it registered with.
const AGENT = {
    client_id: 'agent',
    redirect_uris: ['http://127.0.0.1:1/callback'],
    grant_types: ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: 'none',
    application_type: 'native',
};

function configuration() {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const jwk = { ...privateKey.export({ format: 'jwk' }), kid: 'key-1', use: 'sig', alg: 'ES256' };
    const lived = Number(process.env.TOKEN_SECS ?? 600);
    return {
        jwks: { keys: [jwk] },
        clients: [AGENT],
        scopes: ['openid', 'offline_access', 'read', 'write'],
        cookies: { keys: ['tests'] },
        // Names of people, as the header of the one who signs in says it.
        findAccount: (_, accountId) => ({ accountId, claims: async () => ({ sub: accountId }) }),
        extraTokenClaims: (_, token) => ({ groups: GROUPS[token.accountId] ?? [] }),
        interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
        clientDefaults: { id_token_signed_response_alg: 'ES256' },
        issueRefreshToken: () => true,
        features: {
            devInteractions: { enabled: false },
            registration: { enabled: true },
            resourceIndicators: {
                enabled: true,
                useGrantedResource: () => true,
                getResourceServerInfo: (_, resource) => ({
                    scope: 'read write',
                    audience: resource,
                    accessTokenFormat: 'jwt',
                    accessTokenTTL: lived,
                    jwt: { sign: { alg: 'ES256' } },
                }),
            },
        },
    };
}

async function interact(provider, request, response) {
    const { prompt, params, grantId, session } = await provider.interactionDetails(request, response);
    if (prompt.name === 'login') {
        const login = { accountId: request.headers['x-user'] };
        return provider.interactionFinished(request, response, { login });
    }
    const fresh = () => new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    const grant = grantId ? await provider.Grant.find(grantId) : fresh();
    const { missingOIDCScope, missingResourceScopes } = prompt.details;
    if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
    for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) {
        const refused = READERS.includes(session.accountId) ? scopes.filter((it) => it !== 'read') : [];
        grant.addResourceScope(resource, scopes.filter((it) => !refused.includes(it)).join(' '));
        if (refused.length) grant.rejectResourceScope(resource, refused.join(' '));
    }
    const consent = { grantId: await grant.save() };
    return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
    const url = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(url, configuration());
    const answer = provider.callback();
    server.on('request', (request, response) => {
        if (!request.url.startsWith('/interaction/')) return answer(request, response);
        interact(provider, request, response).catch((error) => {
            console.error(error);
            response.writeHead(500).end();
        });
    });
    console.log(JSON.stringify({ url }));
});
