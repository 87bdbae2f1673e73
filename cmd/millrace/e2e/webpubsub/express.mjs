// @azure/web-pubsub-express, every handler and answer of it, with Express 5.
import { assert, bytes, check, configure, connectionString, fails, hub, key, listen, Raw, require, serviceOf, until } from "./common.mjs"
import crypto from "node:crypto"
import http from "node:http"

const express = require("express")
const { WebPubSubEventHandler } = require("@azure/web-pubsub-express")
const { WebPubSubClient } = require("@azure/web-pubsub-client")
const service = serviceOf(hub)
const system = ["connect", "connected", "disconnected", "joined", "left"]

const headers = []

// serve starts an app with a handler and makes it the hub's.
async function serve(name, options, more = {}) {
  const handler = new WebPubSubEventHandler(name, options)
  const app = express()
  app.use((req, res, next) => {
    headers.push(req.headers) // the package does not read all of them
    next()
  })
  app.use(handler.getMiddleware())
  app.use((err, req, res, next) => {
    console.error("Express:", err)
    next(err)
  })
  const port = await listen(http.createServer(app))
  await configure(name, { handlers: [{ url: `http://127.0.0.1:${port}${handler.path}`, userEvents: "*", systemEvents: system, ...more }] })
  return handler
}

const seen = { connect: [], connected: [], disconnected: [], joined: [], left: [], events: [] }
let running = 0
const handler = await serve(hub, {
  handleConnect(req, res) {
    seen.connect.push(req)
    switch (req.query?.do?.[0]) {
      case "fail":
        return res.fail(401, "no entry")
      case "failWith":
        return res.failWith({ code: 400, detail: "bad day" })
      case "broken":
        return res.fail(500, "broken")
      case "plain":
        return res.success()
      case "custom":
        return res.success({ subprotocol: "custom.v2" })
      default:
        res.setState("step", 1)
        res.setState("tags", ["ü", { deep: true }])
        return res.success({ userId: "given", groups: ["g1", "g2"], roles: ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup.g3"], subprotocol: "json.webpubsub.azure.v1" })
    }
  },
  onConnected: (req) => seen.connected.push(req),
  onDisconnected: (req) => seen.disconnected.push(req),
  onGroupJoined: (req) => seen.joined.push(req),
  onGroupLeft: (req) => seen.left.push(req),
  handleUserEvent(req, res) {
    seen.events.push(req)
    switch (req.context.eventName) {
      case "fail":
        return res.fail(400, "no")
      case "unauthorized":
        return res.fail(401)
      case "silent":
        return res.success()
      case "state":
        res.setState("step", req.context.states.step + 1)
        return res.success(JSON.stringify(req.context.states), "json")
      case "slow":
        running++
        setTimeout(() => {
          const n = running--
          res.success(JSON.stringify({ running: n, data: req.data }), "json")
        }, 100)
        return
      case "text":
        return res.success("as text")
      default:
        return res.success(req.dataType === "json" ? JSON.stringify(req.data) : req.data, req.dataType)
    }
  },
  allowedEndpoints: [new URL(connectionString.match(/Endpoint=([^;]*)/)[1]).origin],
})

const token = async (o) => (await service.getClientAccessToken(o)).url
let c

await check("the handler's path", async () => {
  assert.equal(handler.path, `/api/webpubsub/hubs/${hub}/`)
})

await check("handleConnect", async () => {
  c = await Raw.connect((await token({ userId: "asked", roles: ["webpubsub.joinLeaveGroup"], groups: ["g0"] })) + "&tag=a&tag=b", "json.webpubsub.azure.v1",
    { headers: { "X-Own": "one" } })
  assert.equal(JSON.parse(c.frames[0]).userId, "given")
  const req = seen.connect[0]
  assert.deepEqual(req.claims.sub, ["asked"])
  assert.deepEqual(req.claims.role, ["webpubsub.joinLeaveGroup"])
  assert.deepEqual(req.claims["webpubsub.group"], ["g0"])
  assert.deepEqual(req.query.tag, ["a", "b"])
  assert.deepEqual(req.queries, req.query)
  assert.equal(JSON.stringify(req.query).includes("access_token"), false)
  const own = Object.entries(req.headers).find(([k]) => k.toLowerCase() === "x-own")
  assert.deepEqual(own?.[1], ["one"])
  assert.equal(Object.keys(req.headers).some((k) => k.toLowerCase() === "authorization"), false)
  assert.deepEqual(req.subprotocols, ["json.webpubsub.azure.v1"])
  const x = req.context
  assert.equal(x.hub, hub.toLowerCase())
  assert.equal(x.connectionId, c.id)
  assert.equal(x.eventName, "connect")
  assert.equal(x.userId, "asked")
  assert.equal(x.clientProtocol, "default")
  assert.equal(x.origin, "127.0.0.1")
  assert.match(x.signature, /^sha256=[0-9a-f]{64}(,sha256=[0-9a-f]{64})?$/)
})

await check("what handleConnect gave holds", async () => {
  for (const [g, want] of [["g0", false], ["g1", true], ["g2", true]]) assert.equal(await service.groupExists(g), want, g)
  c.send({ type: "joinGroup", group: "g3", ackId: 1 })
  assert.equal((await c.json()).success, true)
  c.send({ type: "joinGroup", group: "g4", ackId: 2 })
  assert.equal((await c.json()).error.name, "Forbidden")
})

await check("onConnected", async () => {
  const req = await until("it is called", () => seen.connected[0])
  assert.equal(req.context.connectionId, c.id)
  assert.equal(req.context.userId, "given")
  assert.deepEqual(req.context.states, { step: 1, tags: ["ü", { deep: true }] })
  const h = headers.find((h) => h["ce-type"] === "azure.webpubsub.sys.connected")
  assert.equal(h["ce-subprotocol"], "json.webpubsub.azure.v1")
  assert.equal(h["ce-specversion"], "1.0")
  assert.equal(h["ce-awpsversion"], "1.0")
  assert.equal(h["ce-source"], `/hubs/${hub.toLowerCase()}/client/${c.id}`)
  assert.equal(h["ce-id"], "1")
  assert.match(h["ce-time"], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/)
  const digest = "sha256=" + crypto.createHmac("sha256", key).update(c.id).digest("hex")
  assert.ok(h["ce-signature"].split(",").includes(digest))
})

await check("onGroupJoined, onGroupLeft", async () => {
  await until("it has joined", () => seen.joined.some((j) => j.group === "g3"))
  const j = seen.joined.find((j) => j.group === "g3")
  assert.equal(j.context.connectionId, c.id)
  assert.equal(j.context.eventName, "joined")
  c.send({ type: "leaveGroup", group: "g3", ackId: 3 })
  assert.equal((await c.json()).success, true)
  const l = await until("it has left", () => seen.left.find((l) => l.group === "g3"))
  assert.equal(l.context.eventName, "left")
  await service.group("byrest").addConnection(c.id)
  await until("it has joined by REST", () => seen.joined.some((j) => j.group === "byrest"))
  await service.group("byrest").removeConnection(c.id)
  await until("it has left by REST", () => seen.left.some((l) => l.group === "byrest"))
})

await check("handleUserEvent", async () => {
  let ackId = 10
  for (const [dataType, data] of [["text", "hé"], ["json", { a: [1, null] }], ["json", "str"], ["json", 7], ["binary", "AAH+"]]) {
    const from = seen.events.length
    c.send({ type: "event", event: "echo.it", ackId: ++ackId, dataType, data })
    assert.deepEqual(await c.json(), { type: "message", from: "server", dataType, data })
    assert.deepEqual(await c.json(), { type: "ack", ackId, success: true })
    const req = seen.events[from]
    assert.equal(req.dataType, dataType)
    dataType === "binary" ? assert.deepEqual(bytes(req.data), [0, 1, 254]) : assert.deepEqual(req.data, data)
    assert.equal(req.context.eventName, "echo.it")
    assert.equal(req.context.connectionId, c.id)
  }
  c.send({ type: "event", event: "text", ackId: 30, data: 1 })
  assert.deepEqual(await c.json(), { type: "message", from: "server", dataType: "binary", data: "YXMgdGV4dA==" }) // what Express sends without a type
  assert.equal((await c.json()).success, true)
  c.send({ type: "event", event: "silent", ackId: 31, data: 1 })
  assert.deepEqual(await c.json(), { type: "ack", ackId: 31, success: true })
})

await check("handleUserEvent fails", async () => {
  for (const [event, ackId] of [["fail", 40], ["unauthorized", 41]]) {
    c.send({ type: "event", event, ackId, dataType: "text", data: "x" })
    const ack = await c.json()
    assert.equal(ack.success, false)
    assert.equal(ack.error.name, "InternalServerError")
    assert.ok(ack.error.message)
  }
})

await check("setState", async () => {
  for (const step of [1, 2, 3]) {
    c.send({ type: "event", event: "state", dataType: "text", data: "x" })
    const m = await c.json()
    assert.deepEqual(m.data.tags, ["ü", { deep: true }])
    assert.equal(m.data.step, step + 1) // with what it has just been set to
  }
})

await check("events of a connection come one at a time, in order", async () => {
  for (let i = 0; i < 5; i++) c.send({ type: "event", event: "slow", data: i })
  for (let i = 0; i < 5; i++) assert.deepEqual((await c.json()).data, { running: 1, data: i })
})

await check("fail and failWith refuse the handshake", async () => {
  let e = await fails(Raw.connect((await token()) + "&do=fail"))
  assert.equal(e.status, 401)
  assert.match(e.body, /no entry/)
  e = await fails(Raw.connect((await token()) + "&do=failWith"))
  assert.equal(e.status, 400)
  assert.match(e.body, /bad day/)
  assert.equal(seen.disconnected.length, 0)
})

await check("success without anything keeps the token's", async () => {
  const p = await Raw.connect((await token({ userId: "kept", groups: ["kg"] })) + "&do=plain")
  assert.equal(JSON.parse(p.frames[0]).userId, "kept")
  assert.equal(await service.groupExists("kg"), true)
  p.ws.close(1000, "bye")
  const d = await until("onDisconnected", () => seen.disconnected.find((d) => d.context.connectionId === p.id))
  assert.equal(d.reason, "bye")
  assert.equal(d.context.userId, "kept")
})

await check("a subprotocol of the handler's own", async () => {
  const p = await Raw.connect((await token({ userId: "own" })) + "&do=custom", ["custom.v1", "custom.v2"])
  assert.equal(p.ws.protocol, "custom.v2")
  p.send("hello")
  assert.equal(await p.next(), "hello")
  assert.equal(seen.events.at(-1).context.eventName, "message")
  assert.equal(headers.at(-1)["ce-subprotocol"], "custom.v2")
  p.send(new Uint8Array([1, 2]))
  assert.deepEqual(bytes(await p.next()), [1, 2])
  p.ws.close(1000)
})

await check("onDisconnected after a close by the service", async () => {
  await service.closeConnection(c.id, { reason: "enough" })
  const d = await until("it is called", () => seen.disconnected.find((d) => d.context.connectionId === c.id))
  assert.match(d.reason, /enough/)
  assert.deepEqual(d.context.states.tags, ["ü", { deep: true }])
})

await check("invokeEvent through Express", async () => {
  const client = new WebPubSubClient((await token({ userId: "inv" })) + "&do=plain")
  await client.start()
  const r = await client.invokeEvent("sum.echo", { a: 1 }, "json")
  assert.deepEqual(r.data, { a: 1 })
  await fails(client.invokeEvent("fail", 1, "json"))
  client.stop()
})

await check("a handler without functions lets everything by", async () => {
  const name = hub + "empty"
  await serve(name, {})
  const other = serviceOf(name)
  const p = await Raw.connect((await other.getClientAccessToken({ userId: "u" })).url)
  assert.equal(JSON.parse(p.frames[0]).userId, "u")
  p.send({ type: "event", event: "any", ackId: 0, data: 1 })
  assert.deepEqual(await p.json(), { type: "ack", ackId: 0, success: true })
  p.ws.close(1000)
})

await check("without a handler for connect the token decides", async () => {
  const name = hub + "events"
  await serve(name, { path: "/own/path", handleUserEvent: (req, res) => res.success("got " + req.data, "text") }, { systemEvents: [], userEvents: "one, two.*" })
  const other = serviceOf(name)
  const p = await Raw.connect((await other.getClientAccessToken({ userId: "u" })).url)
  for (const [event, ackId] of [["one", 1], ["two.x", 2]]) {
    p.send({ type: "event", event, ackId, dataType: "text", data: event })
    assert.equal((await p.json()).data, "got " + event)
    assert.equal((await p.json()).success, true)
  }
  p.send({ type: "event", event: "three", ackId: 3, dataType: "text", data: "three" })
  assert.equal((await p.json()).error.name, "InternalServerError")
  p.ws.close(1000)
})

await check("a handler that does not allow our origin gets nothing", async () => {
  const name = hub + "barred"
  let called = false
  await serve(name, { allowedEndpoints: ["https://other.example.com"], handleConnect: (req, res) => {
    called = true
    res.success()
  } })
  const other = serviceOf(name)
  assert.equal((await fails(Raw.connect((await other.getClientAccessToken({})).url))).status, 500)
  assert.equal(called, false)
})

await check("a handler that answers 500 refuses after its retries", async () => {
  const from = seen.connect.length
  assert.equal((await fails(Raw.connect((await token()) + "&do=broken"))).status, 500)
  assert.ok(seen.connect.length > from + 1, "it was not tried again")
})

await check("a simple client whose handler fails is closed", async () => {
  const name = hub + "simple"
  await serve(name, { handleUserEvent: (req, res) => (req.data === "bad" ? res.fail(400) : res.success("re: " + req.data, "text")) })
  const other = serviceOf(name)
  const p = await Raw.connect((await other.getClientAccessToken({})).url, "")
  p.send("good")
  assert.equal(await p.next(), "re: good")
  p.send("bad")
  assert.equal((await p.closed).code, 1011)
})

process.exit(0)
