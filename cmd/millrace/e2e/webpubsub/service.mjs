// @azure/web-pubsub, every operation of it, seen by clients that read bare frames.
import { assert, bytes, check, connectionString, covered, endpoint, fails, hub, jwt, key, Proxy, Raw, require, rest, serviceOf, until } from "./common.mjs"

const { AzureKeyCredential, odata, WebPubSubServiceClient } = require("@azure/web-pubsub")
const service = serviceOf(hub)
const everything = [covered(WebPubSubServiceClient), covered(service.group("any").constructor)]
const connect = async (options = {}, protocol) => Raw.connect((await service.getClientAccessToken(options)).url, protocol)
const code = (e) => e.response?.headers.get("x-ms-error-code")
const text = { contentType: "text/plain" }

await check("health", async () => {
  assert.equal((await fetch(endpoint + "/api/health", { method: "HEAD" })).status, 200)
})

await check("getClientAccessToken", async () => {
  const t = await service.getClientAccessToken({ userId: "alice", roles: ["webpubsub.sendToGroup"], groups: ["g"], expirationTimeInMinutes: 5 })
  assert.equal(t.baseUrl, endpoint.replace("http", "ws") + "/client/hubs/" + hub)
  assert.equal(t.url, t.baseUrl + "?access_token=" + t.token)
  const c = await Raw.connect(t.url)
  assert.equal(JSON.parse(c.frames[0]).userId, "alice")
  c.send({ type: "sendToGroup", group: "g", ackId: 0, dataType: "text", data: "own" })
  const got = [await c.next(), await c.next()].sort()
  assert.deepEqual(got, ['{"type":"ack","ackId":0,"success":true}', '{"type":"message","from":"group","group":"g","fromUserId":"alice","dataType":"text","data":"own"}'])
  c.ws.close(1000)
  for (const clientProtocol of ["default", "mqtt", "socketio"]) assert.ok((await service.getClientAccessToken({ clientProtocol })).token)
})

await check("the hub's name in any case", async () => {
  const other = serviceOf(hub.toUpperCase())
  const c = await Raw.connect((await other.getClientAccessToken({ userId: "upper" })).url)
  assert.equal(await service.userExists("upper"), true)
  c.ws.close(1000)
})

const a = await connect({ userId: "alice" })
const b = await connect({ userId: "vic's" })
const n = await connect({})
const simple = await connect({ userId: "simple" }, "")
await until("all are there", async () => (await service.userExists("simple")) && (await service.connectionExists(n.id)))

await check("the connected frame", async () => {
  assert.deepEqual(Object.keys(JSON.parse(a.frames[0])), ["type", "event", "userId", "connectionId"])
  assert.equal(JSON.parse(a.frames[0]).userId, "alice")
  assert.ok(!n.frames[0].includes("null") && !JSON.parse(n.frames[0]).userId)
})

const raw = new Uint8Array([0, 1, 254])
const forms = [
  [{ a: [1, "ü"] }, undefined, '"dataType":"json","data":{"a":[1,"ü"]}', '{"a":[1,"ü"]}'],
  ["json text", undefined, '"dataType":"json","data":"json text"', '"json text"'],
  ["plain", text, '"dataType":"text","data":"plain"', "plain"],
  [raw, undefined, '"dataType":"binary","data":"AAH+"', raw],
  [raw.buffer, undefined, '"dataType":"binary","data":"AAH+"', raw],
]
const plain = async (want) => {
  const got = await simple.next()
  want instanceof Uint8Array ? assert.deepEqual(bytes(got), bytes(want)) : assert.equal(got, want)
}

await check("sendToAll", async () => {
  for (const [message, options, json, bare] of forms) {
    await service.sendToAll(message, options)
    for (const c of [a, b, n]) assert.equal(await c.next(), `{"type":"message","from":"server",${json}}`)
    await plain(bare)
  }
})

await check("JSON to simple clients is what was published, byte for byte", async () => {
  const body = '{ "b" : 1.0,\n "a":1e2 }'
  const res = await rest("POST", `/api/hubs/${hub}/:send?api-version=2024-12-01`, { body, type: "application/json" })
  assert.equal(res.status, 202)
  assert.equal(await simple.next(), body)
  for (const c of [a, b, n]) assert.deepEqual((await c.json()).data, { b: 1, a: 100 })
})

// only sees to it that a send reaches just these; a marker to all follows it.
let marks = 0
async function only(clients, send) {
  await send()
  const mark = ++marks
  await service.sendToAll({ mark })
  for (const c of [a, b, n]) {
    if (clients.includes(c)) assert.notEqual((await c.json()).data.mark, mark)
    assert.equal((await c.json()).data.mark, mark)
  }
  if (clients.includes(simple)) await simple.next()
  assert.deepEqual(JSON.parse(await simple.next()), { mark })
}

await check("sendToAll excludedConnections, filter, messageTtlSeconds", async () => {
  await only([b, n, simple], () => service.sendToAll({}, { excludedConnections: [a.id] }))
  await only([n, simple], () => service.sendToAll({}, { excludedConnections: [a.id, b.id], messageTtlSeconds: 60 }))
  await only([b], () => service.sendToAll({}, { filter: odata`userId eq ${"vic's"}` }))
  await only([n], () => service.sendToAll({}, { filter: odata`userId eq ${null}` }))
  await only([a, n], () => service.sendToAll({}, { filter: odata`length(userId) eq ${5} and startswith(userId, ${"ali"}) or connectionId eq ${n.id}`, messageTtlSeconds: 300 }))
  await only([a, b, simple], () => service.sendToAll({}, { filter: "userId ne null" }))
  await only([a, simple], () => service.sendToAll({}, { filter: "not contains(userId, '''') and userId in ('alice', 'simple', 'other')" }))
})

await check("sendToUser", async () => {
  await only([a], () => service.sendToUser("alice", {}))
  await only([b], () => service.sendToUser("vic's", {}, { filter: odata`connectionId eq ${b.id}`, messageTtlSeconds: 1 }))
  await only([], () => service.sendToUser("vic's", {}, { filter: odata`connectionId eq ${a.id}` }))
  await only([], () => service.sendToUser("nobody", {}))
  await only([], () => service.sendToUser("Alice", {}))
  await service.sendToUser("simple", "t", text)
  await plain("t")
  await service.sendToUser("simple", raw)
  await plain(raw)
})

await check("sendToConnection", async () => {
  await only([n], () => service.sendToConnection(n.id, {}))
  await only([], () => service.sendToConnection("nobody", {}))
  for (const [message, options, json] of forms) {
    await service.sendToConnection(a.id, message, { ...options, messageTtlSeconds: 10 })
    assert.equal(await a.next(), `{"type":"message","from":"server",${json}}`)
  }
})

await check("connectionExists, userExists, groupExists", async () => {
  assert.equal(await service.connectionExists(a.id), true)
  assert.equal(await service.connectionExists("nobody"), false)
  assert.equal(await service.userExists("vic's"), true)
  assert.equal(await service.userExists("VIC'S"), false)
  assert.equal(await service.groupExists("none"), false)
  for (const [path, want] of [["connections/x", "Warning.Connection.NotExisted"], ["users/x", "Warning.User.NotExisted"], ["groups/x", "Warning.Group.NotExisted"]]) {
    const res = await rest("HEAD", `/api/hubs/${hub}/${path}?api-version=2024-12-01`)
    assert.equal(res.status, 404)
    assert.equal(res.headers.get("x-ms-error-code"), want)
  }
})

for (const name of ["g", "a/b", "ü b%25+c'?#&", "x".repeat(1024)]) {
  await check("group " + name.slice(0, 20), async () => {
    const g = service.group(name)
    assert.equal(g.groupName, name)
    await g.addConnection(a.id)
    await g.addConnection(a.id)
    await g.addUser("vic's")
    assert.equal(await service.groupExists(name), true)
    await only([a, b], () => g.sendToAll({}))
    await only([a], () => g.sendToAll({}, { excludedConnections: [b.id] }))
    await only([b], () => g.sendToAll({}, { filter: odata`userId ne ${"alice"}`, messageTtlSeconds: 5 }))
    await only([a, b], () => service.sendToAll({}, { filter: odata`${name} in groups` }))
    for (const [message, options, json] of forms) {
      await g.sendToAll(message, options)
      for (const c of [a, b]) assert.equal(await c.next(), `{"type":"message","from":"group","group":${JSON.stringify(name)},${json}}`)
    }
    const listed = []
    for await (const m of await g.listConnections()) listed.push([m.connectionId, m.userId])
    assert.deepEqual(listed, [[a.id, "alice"], [b.id, "vic's"]].sort((x, y) => (x[0] < y[0] ? -1 : 1)))
    await g.removeConnection(a.id)
    await g.removeConnection(a.id)
    await only([b], () => g.sendToAll({}))
    await g.removeUser("vic's")
    await g.removeUser("nobody")
    await until("the group is gone", async () => !(await service.groupExists(name)))
  })
}

await check("group names keep their case", async () => {
  await service.group("Case").addConnection(a.id)
  await only([], () => service.group("case").sendToAll({}))
  await service.group("Case").removeConnection(a.id)
})

await check("errors of groups", async () => {
  let e = await fails(service.group("g").addConnection("nobody"))
  assert.equal(e.statusCode, 404)
  assert.equal(code(e), "Error.Connection.NotExisted")
  e = await fails(service.group("g").addUser("nobody"))
  assert.equal(e.statusCode, 404)
  assert.equal(code(e), "Warning.User.NotExisted")
  await service.group("g").removeConnection("nobody")
})

await check("addConnectionsToGroups, removeConnectionsFromGroups", async () => {
  await service.addConnectionsToGroups(["g1", "g2"], odata`userId eq ${"alice"} or userId eq ${null}`)
  await only([a, n], () => service.group("g1").sendToAll({}))
  await only([a, n], () => service.group("g2").sendToAll({}))
  await service.removeConnectionsFromGroups(["g1"], "userId eq 'alice'")
  await only([n], () => service.group("g1").sendToAll({}))
  await service.removeConnectionsFromGroups(["g1", "g2"], "")
  assert.equal(await service.groupExists("g2"), false)
  const e = await fails(service.addConnectionsToGroups(["g1"], "invalid filter"))
  assert.equal(e.statusCode, 400)
  assert.equal(code(e), "Error.BadRequest")
  assert.equal((await fails(service.addConnectionsToGroups([" "], ""))).statusCode, 400)
})

await check("removeUserFromAllGroups, removeConnectionFromAllGroups", async () => {
  for (const g of ["g1", "g2", "g3"]) await service.group(g).addUser("alice")
  await service.removeConnectionFromAllGroups(a.id)
  for (const g of ["g1", "g2", "g3"]) assert.equal(await service.groupExists(g), false)
  for (const g of ["g1", "g2", "g3"]) await service.group(g).addUser("alice")
  await service.removeUserFromAllGroups("alice")
  for (const g of ["g1", "g2", "g3"]) assert.equal(await service.groupExists(g), false)
  await service.removeConnectionFromAllGroups("nobody")
  await service.removeUserFromAllGroups("nobody")
})

await check("an invalid filter", async () => {
  const e = await fails(service.sendToAll({}, { filter: "invalid filter" }))
  assert.equal(e.statusCode, 400)
  assert.equal(code(e), "Error.BadRequest")
  assert.match(e.response.bodyAsText, /Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'\. \(Parameter 'filter'\)/)
})

await check("listConnections", async () => {
  const six = []
  for (let i = 0; i < 6; i++) six.push(await connect({ userId: "user" + i, groups: ["list"] }))
  const ids = six.map((c) => c.id).sort()
  const g = service.group("list")
  await until("all are there", async () => {
    const all = []
    for await (const m of await g.listConnections()) all.push(m.connectionId)
    return all.length === 6
  })
  const pages = async (options) => {
    const sizes = [], got = []
    for await (const page of (await g.listConnections(options)).byPage()) {
      const items = Array.isArray(page) ? page : page.value
      sizes.push(items.length)
      got.push(...items.map((m) => m.connectionId))
    }
    assert.deepEqual(got, ids.slice(0, got.length))
    return sizes
  }
  assert.deepEqual(await pages({ maxPageSize: 2 }), [2, 2, 2])
  assert.deepEqual(await pages({ maxPageSize: 2, top: 5 }), [2, 2, 1])
  assert.deepEqual(await pages({ top: 3 }), [3])
  assert.deepEqual(await pages({}), [6])
  let next
  const res = await rest("GET", `/api/hubs/${hub}/groups/list/connections?api-version=2024-12-01&maxpagesize=4`)
  assert.equal(res.status, 200)
  next = (await res.json()).nextLink
  assert.ok(next.startsWith(endpoint + "/api/hubs/"), next)
  const rest4 = []
  for await (const m of await g.listConnections({ continuationToken: new URL(next).searchParams.get("continuationToken") })) rest4.push(m.connectionId)
  assert.deepEqual(rest4, ids.slice(4))
  const e = await fails((async () => {
    for await (const m of await g.listConnections({ continuationToken: "tampered" })) assert.ok(m)
  })())
  assert.equal(e.statusCode, 400)
  const none = []
  for await (const m of await service.group("nobody-here").listConnections()) none.push(m)
  assert.deepEqual(none, [])
  await g.closeAllConnections({ reason: "full" })
  for (const c of six) {
    assert.equal(await c.next(), '{"type":"system","event":"disconnected","message":"Application server closed the connection. Reason: full"}')
    assert.deepEqual(await c.closed, { code: 1000, reason: "" })
  }
})

await check("grantPermission, hasPermission, revokePermission", async () => {
  const can = async (type, group) => {
    a.send(type === "sendToGroup" ? { type, group, ackId: ++marks + 1000, noEcho: true, data: 1 } : { type, group, ackId: ++marks + 1000 })
    const ack = await a.json()
    if (!ack.success) assert.equal(ack.error.name, "Forbidden")
    return ack.success
  }
  for (const [permission, type] of [["sendToGroup", "sendToGroup"], ["joinLeaveGroup", "joinGroup"]]) {
    const o = { targetName: "perm" }
    assert.equal(await service.hasPermission(a.id, permission, o), false)
    assert.equal(await can(type, "perm"), false)
    await service.grantPermission(a.id, permission, o)
    assert.equal(await service.hasPermission(a.id, permission, o), true)
    assert.equal(await service.hasPermission(a.id, permission, { targetName: "other" }), false)
    assert.equal(await can(type, "perm"), true)
    await service.revokePermission(a.id, permission, o)
    assert.equal(await service.hasPermission(a.id, permission, o), false)
    assert.equal(await can(type, "perm"), false)
    await service.grantPermission(a.id, permission)
    assert.equal(await can(type, "anything"), true)
    await service.revokePermission(a.id, permission)
    assert.equal(await can(type, "anything"), false)
    assert.equal(await service.hasPermission("nobody", permission, o), false)
    const e = await fails(service.grantPermission("nobody", permission, o))
    assert.equal(e.statusCode, 404)
    assert.equal(code(e), "Info.Connection.NotExisted")
    await service.revokePermission("nobody", permission, o)
  }
})

await check("closeConnection", async () => {
  const c = await connect({ userId: "shut" })
  const d = await connect({ userId: "shut" })
  await service.closeConnection(c.id, { reason: "why „not“" })
  assert.equal((await c.json()).message, "Application server closed the connection. Reason: why „not“")
  assert.deepEqual(await c.closed, { code: 1000, reason: "" })
  assert.equal(await service.connectionExists(c.id), false)
  await service.closeConnection(d.id)
  assert.equal((await d.json()).message, "Application server closed the connection.")
  await service.closeConnection("nobody")
})

await check("closeUserConnections", async () => {
  const cs = [await connect({ userId: "shut" }), await connect({ userId: "shut" })]
  const s = await connect({ userId: "shut" }, "")
  await service.closeUserConnections("shut", { reason: "all of them" })
  for (const c of cs) {
    assert.match((await c.json()).message, /Reason: all of them$/)
    assert.equal((await c.closed).code, 1000)
  }
  assert.equal((await s.closed).code, 1000)
  assert.equal(s.frames.length, 0)
  assert.equal(await service.userExists("shut"), false)
  await service.closeUserConnections("nobody")
})

await check("AzureKeyCredential", async () => {
  const other = new WebPubSubServiceClient(endpoint, new AzureKeyCredential(key), hub, { allowInsecureConnection: true })
  assert.equal(await other.connectionExists(a.id), true)
  const c = await Raw.connect((await other.getClientAccessToken({ userId: "k" })).url)
  c.ws.close(1000)
})

await check("another name of the same server", async () => {
  const proxy = await new Proxy().start()
  const other = serviceOf(hub, proxy.connectionString)
  assert.equal(await other.connectionExists(a.id), true)
})

await check("a wrong key", async () => {
  const other = serviceOf(hub, connectionString.replace(key, "w".repeat(44)))
  for (const f of [() => other.sendToAll({}), () => other.connectionExists(a.id), () => other.group("g").addConnection(a.id)]) {
    assert.equal((await fails(f())).statusCode, 401)
  }
  assert.equal((await fails(Raw.connect((await other.getClientAccessToken({ userId: "w" })).url))).status, 401)
})

await check("generateToken", async () => {
  const q = "api-version=2024-12-01&userId=gen&role=webpubsub.sendToGroup&role=webpubsub.joinLeaveGroup&group=g1&group=g2&minutesToExpire=5"
  const res = await rest("POST", `/api/hubs/${hub}/:generateToken?${q}`)
  assert.equal(res.status, 200)
  const { token } = await res.json()
  const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url"))
  assert.equal(claims.sub, "gen")
  assert.deepEqual(claims.role, ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup"])
  assert.deepEqual(claims["webpubsub.group"], ["g1", "g2"])
  assert.equal(claims.exp - claims.nbf, 300)
  const c = await Raw.connect(endpoint.replace("http", "ws") + "/client/hubs/" + hub + "?access_token=" + token)
  await service.group("g2").sendToAll("in", text)
  assert.equal((await c.json()).group, "g2")
  c.ws.close(1000)
  for (const bad of ["minutesToExpire=0", "minutesToExpire=x", "clientType=what"]) {
    assert.equal((await rest("POST", `/api/hubs/${hub}/:generateToken?api-version=2024-12-01&${bad}`)).status, 400, bad)
  }
  for (const type of ["Default", "mqtt", "MQTT", "socketio"]) {
    assert.equal((await rest("POST", `/api/hubs/${hub}/:generateToken?api-version=2024-12-01&clientType=${type}`)).status, 200, type)
  }
})

await check("expired tokens", async () => {
  const now = Math.floor(Date.now() / 1000)
  const url = `${endpoint}/api/hubs/${hub}/users/x?api-version=2024-12-01`
  const head = async (claims) => (await fetch(url, { method: "HEAD", headers: { authorization: "Bearer " + jwt({ aud: url, ...claims }) } })).status
  assert.equal(await head({ exp: now + 60 }), 404)
  assert.equal(await head({ exp: now - 60 }), 404)
  assert.equal(await head({ exp: now - 3600 }), 401)
  assert.equal(await head({ exp: now + 60, nbf: now + 3600 }), 401)
  assert.equal(await head({}), 401)
})

await check("closeAllConnections", async () => {
  const left = serviceOf(hub + "x")
  const other = await Raw.connect((await left.getClientAccessToken({})).url)
  await service.closeAllConnections({ reason: "night" })
  for (const c of [a, b, n]) {
    assert.equal((await c.json()).message, "Application server closed the connection. Reason: night")
    assert.equal((await c.closed).code, 1000)
  }
  assert.equal((await simple.closed).code, 1000)
  assert.equal(await left.connectionExists(other.id), true)
  await left.closeAllConnections()
  await other.closed
})

await check("every method has been called", async () => everything.forEach((f) => f()))
process.exit(0)
