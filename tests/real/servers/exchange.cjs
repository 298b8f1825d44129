// An authorization server that gives a token for another (RFC 8693), `@jmondi/oauth2-server`. It believes who calls to
// whoever signs with the key in PUBLIC_KEY, gives whoever KNOWN names a token for `audience`, good for TOKEN_SECS, and
// refuses everybody else. A client gets one of its own. Whoever serves asks it whom a token is for (RFC 7662). Prints
// where it is when it is ready.
//
//     NODE_PATH=<node_modules> PUBLIC_KEY=<file> ISSUER=<of assertions> KNOWN=<names> TOKEN_SECS=<n> node exchange.cjs
'use strict';

const { createPublicKey, randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const http = require('node:http');
const { AuthorizationServer, DateInterval, OAuthException } = require('@jmondi/oauth2-server');
const { handleVanillaError, requestFromVanilla, responseToVanilla } = require('@jmondi/oauth2-server/vanilla');
const { jwtVerify } = require('jose');

const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const JWT = 'urn:ietf:params:oauth:token-type:jwt';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const AUDIENCE = 'outside';
const GOOD_SECS_MAX = 60;

const client = (id, ...allowedGrants) => ({ id, name: id, secret: `of-${id}`, redirectUris: [], allowedGrants, scopes: [] });
const CLIENTS = [client('weft', TOKEN_EXCHANGE, 'client_credentials'), client('outside', 'client_credentials')];

const known = process.env.KNOWN.split(',');
const key = createPublicKey(readFileSync(process.env.PUBLIC_KEY));
const tokens = new Map();
const asserted = new Set();

const clients = {
    getByIdentifier: async (id) => CLIENTS.find((it) => it.id === id),
    isClientValid: async (grant, it, secret) => it.secret === secret && it.allowedGrants.includes(grant),
};
const issued = {
    issueToken: async (client, scopes, user) => ({ accessToken: randomUUID(), client, scopes, user }),
    persist: async (token) => void tokens.set(token.accessToken, token),
    getByAccessToken: async (id) => tokens.get(id),
};
const scopes = {
    getAllByIdentifiers: async (names) => names.filter((name) => name === 'read').map((name) => ({ name })),
    finalize: async (wanted) => wanted,
};

/** Who is asked for, if it is so said as only the sidecar can. */
function exchanged(url) {
    return async ({ subjectToken, subjectTokenType, requestedTokenType, audience }) => {
        if (audience !== AUDIENCE) throw new OAuthException('no such target', 'invalid_target');
        if (subjectTokenType !== JWT || requestedTokenType !== ACCESS_TOKEN) throw OAuthException.badRequest('kind');
        const must = { issuer: process.env.ISSUER, audience: `${url}/token`, algorithms: ['ES256'] };
        const { payload } = await jwtVerify(subjectToken, key, { ...must, requiredClaims: ['jti', 'iat', 'exp'] }).catch(
            (error) => {
                throw OAuthException.badRequest(error.message);
            },
        );
        const { sub, jti, iat, exp } = payload;
        if (exp - iat > GOOD_SECS_MAX || asserted.has(jti)) throw OAuthException.badRequest('said too long, or twice');
        asserted.add(jti);
        if (!known.includes(sub)) throw OAuthException.badRequest(`the secret of ${sub}`);
        return { id: sub };
    };
}

async function answered(server, asked, path) {
    try {
        const request = await requestFromVanilla(asked);
        if (path === '/token') return responseToVanilla(await server.respondToAccessTokenRequest(request));
        if (path === '/introspect') return responseToVanilla(await server.introspect(request));
        return new Response(null, { status: 404 });
    } catch (error) {
        console.error(error);
        return responseToVanilla(handleVanillaError(error));
    }
}

const listener = http.createServer();
listener.listen(0, '127.0.0.1', () => {
    const url = `http://localhost:${listener.address().port}`;
    const server = new AuthorizationServer(clients, issued, scopes, randomUUID(), { issuer: url });
    const lived = new DateInterval(`${process.env.TOKEN_SECS}s`);
    server.enableGrantTypes(['client_credentials', lived], [
        { grant: TOKEN_EXCHANGE, processTokenExchange: exchanged(url) },
        lived,
    ]);
    listener.on('request', async (incoming, outgoing) => {
        const { method, headers } = incoming;
        const body = method === 'POST' ? { body: incoming, duplex: 'half' } : {};
        const answer = await answered(server, new Request(`${url}${incoming.url}`, { method, headers, ...body }), incoming.url);
        outgoing.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text());
    });
    console.log(JSON.stringify({ url }));
});
