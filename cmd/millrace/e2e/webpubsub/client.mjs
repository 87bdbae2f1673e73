// @azure/web-pubsub-client, every method of it. CLIENT names the package, PROTOCOL is json or reliable.
import { assert, bytes, check, configure, covered, fails, hub, Proxy, require, serviceOf, until, webhook } from "./common.mjs"

const { WebPubSubClient, WebPubSubJsonProtocol, WebPubSubJsonReliableProtocol, SendMessageError, InvocationError } = require(process.env.CLIENT)
const everything = covered(WebPubSubClient)
const reliable = process.env.PROTOCOL === "reliable"
const protocol = () => (reliable ? WebPubSubJsonReliableProtocol() : WebPubSubJsonProtocol())
const service = serviceOf(hub)
const proxy = await new Proxy().start()
const proxied = serviceOf(hub, proxy.connectionString)
const all = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
const names = ["connected", "disconnected", "stopped", "server-message", "group-message", "rejoin-group-failed"]

function wire(client) {
  client.seen = Object.fromEntries(names.map((n) => [n, []]))
  for (const n of names) client.on(n, (e) => client.seen[n].push(e))
  client.messages = client.seen["group-message"]
  client.served = client.seen["server-message"]
  return client
}

async function make(userId, { roles = all, groups, via = service, ...options } = {}) {
  const { url } = await via.getClientAccessToken({ userId, roles, groups })
  const client = wire(new WebPubSubClient(url, { protocol: protocol(), messageRetryOptions: { maxRetries: 1, retryDelayInMs: 10 },
    reconnectRetryOptions: { retryDelayInMs: 50 }, ...options }))
  await client.start()
  await until("connected", () => client.seen.connected.length)
  client.id = client.seen.connected[0].connectionId
  return client
}

const held = []
const hook = await webhook({
  fail: (req, body, res) => res.writeHead(400).end(),
  silent: (req, body, res) => res.writeHead(204).end(),
  sum: (req, body, res) => res.writeHead(200, { "content-type": "application/json" }).end(String(JSON.parse(body).reduce((a, b) => a + b))),
  slow: (req, body, res) => held.push(res),
})
await configure(hub, { handlers: [{ url: hook.url, userEvents: "*", trusted: true }] })

const a = await make("alice")
const b = await make("bob")

await check("connected", async () => {
  assert.equal(a.seen.connected[0].userId, "alice")
  assert.ok(a.id && a.id !== b.id)
  assert.equal(await service.connectionExists(a.id), true)
})

await check("joinGroup", async () => {
  const r = await a.joinGroup("room")
  assert.equal(r.isDuplicated, false)
  assert.equal(typeof r.ackId, "number")
  await b.joinGroup("room", { ackId: 100001 })
  assert.deepEqual(await b.joinGroup("room", { ackId: 100001 }), { ackId: 100001, isDuplicated: true })
})

const value = { x: [1, "two", null], ü: true }
const bin = new Uint8Array([0, 1, 255]).buffer
const any = new Uint8Array([10, 3, 97, 47, 98, 18, 2, 8, 1]).buffer // type_url "a/b", value 08 01
const kinds = [["json", value], ["text", "hé\u2028llo"], ["binary", bin], ["protobuf", any], ["json", "a string"], ["json", 0], ["json", false], ["text", ""]]
const same = (got, want) => (want instanceof ArrayBuffer ? assert.deepEqual(bytes(got), bytes(want)) : assert.deepEqual(got, want))

for (const [kind, data] of kinds) {
  await check("sendToGroup " + kind + (kind === "binary" || kind === "protobuf" ? "" : " " + JSON.stringify(data)), async () => {
    const [from, own] = [b.messages.length, a.messages.length]
    const r = await a.sendToGroup("room", data, kind)
    assert.equal(r.isDuplicated, false)
    for (const [c, n] of [[b, from], [a, own]]) {
      const { message } = await until("the message is there", () => c.messages[n])
      assert.equal(message.group, "room")
      assert.equal(message.fromUserId, "alice")
      assert.equal(message.dataType, kind)
      same(message.data, data)
      assert.equal(typeof message.sequenceId, reliable ? "number" : "undefined")
    }
  })
}

await check("sendToGroup noEcho", async () => {
  const [from, own] = [b.messages.length, a.messages.length]
  await a.sendToGroup("room", "others", "text", { noEcho: true })
  await a.sendToGroup("room", "everyone", "text")
  await until("both are there", () => b.messages.length === from + 2)
  await until("the second is there", () => a.messages.length > own)
  assert.equal(a.messages[own].message.data, "everyone")
})

await check("sendToGroup fireAndForget", async () => {
  const from = b.messages.length
  const r = await a.sendToGroup("room", "gone", "text", { fireAndForget: true })
  assert.equal(r.ackId, undefined)
  assert.equal((await until("it comes", () => b.messages[from])).message.data, "gone")
})

await check("sendToGroup ackId", async () => {
  const from = b.messages.length
  assert.deepEqual(await a.sendToGroup("room", "once", "text", { ackId: 200001 }), { ackId: 200001, isDuplicated: false })
  assert.deepEqual(await a.sendToGroup("room", "once", "text", { ackId: 200001 }), { ackId: 200001, isDuplicated: true })
  await a.sendToGroup("room", "after", "text")
  await until("the last is there", () => b.messages.length >= from + 2)
  assert.deepEqual(b.messages.slice(from).map((m) => m.message.data), ["once", "after"])
})

await check("sendToGroup of many, in order", async () => {
  const from = b.messages.length
  for (let i = 0; i < 3000; i += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, j) => a.sendToGroup("room", i + j, "json", { noEcho: true })))
  }
  await until("all are there", () => b.messages.length === from + 3000)
  b.messages.slice(from).forEach((m, i) => assert.equal(m.message.data, i))
})

await check("leaveGroup", async () => {
  const from = b.messages.length
  assert.equal((await b.leaveGroup("room")).isDuplicated, false)
  assert.deepEqual(await b.leaveGroup("room", { ackId: 100002 }), { ackId: 100002, isDuplicated: false })
  await a.sendToGroup("room", "unheard", "text")
  await service.sendToConnection(b.id, "marker", { contentType: "text/plain" })
  await until("the marker is there", () => b.served.some((m) => m.message.data === "marker"))
  assert.equal(b.messages.length, from)
  await b.joinGroup("room")
})

await check("without roles nothing goes but events", async () => {
  const c = await make("carol", { roles: [] })
  for (const f of [() => c.joinGroup("room"), () => c.leaveGroup("room"), () => c.sendToGroup("room", "x", "text")]) {
    const e = await fails(f())
    assert.ok(e instanceof SendMessageError, String(e))
    assert.equal(e.errorDetail.name, "Forbidden")
    assert.ok(e.errorDetail.message)
    assert.equal(typeof e.ackId, "number")
  }
  await c.sendToGroup("room", "x", "text", { fireAndForget: true }) // silent, and it stays connected
  await c.sendEvent("echo", "still here", "text")
  c.stop()
})

await check("roles of one group and of patterns", async () => {
  const c = await make("carol", { roles: ["webpubsub.joinLeaveGroup.one", "webpubsub.sendToGroups.two-*"] })
  await c.joinGroup("one")
  await c.sendToGroup("two-x", 1, "json")
  assert.equal((await fails(c.joinGroup("two-x"))).errorDetail.name, "Forbidden")
  assert.equal((await fails(c.sendToGroup("one", 1, "json"))).errorDetail.name, "Forbidden")
  c.stop()
})

await check("groups of the token", async () => {
  const c = await make("carol", { roles: [], groups: ["room", "g2"] })
  await a.sendToGroup("g2", "hi", "text")
  assert.equal((await until("it comes", () => c.messages[0])).message.group, "g2")
  c.stop()
})

for (const [kind, data] of kinds.filter(([, d]) => d !== "")) {
  await check("sendEvent " + kind + (kind === "binary" || kind === "protobuf" ? "" : " " + JSON.stringify(data)), async () => {
    const [from, events] = [a.served.length, hook.events.length]
    assert.equal((await a.sendEvent("echo", data, kind)).isDuplicated, false)
    assert.ok(a.served.length > from, "the reply was to come before the ack")
    const { message } = a.served[from]
    assert.equal(message.dataType, kind)
    same(message.data, data)
    const got = hook.events[events]
    assert.equal(got.type, "azure.webpubsub.user.echo")
    assert.equal(got.headers["ce-userid"], "alice")
    assert.equal(got.headers["ce-connectionid"], a.id)
  })
}

await check("sendEvent without an answer, fireAndForget, ackId, failing", async () => {
  await a.sendEvent("silent", 1, "json")
  const events = hook.events.length
  assert.equal((await a.sendEvent("silent", "x", "text", { fireAndForget: true })).ackId, undefined)
  await until("the handler has it", () => hook.events.length === events + 1)
  assert.deepEqual(await a.sendEvent("silent", "x", "text", { ackId: 300001 }), { ackId: 300001, isDuplicated: false })
  assert.deepEqual(await a.sendEvent("silent", "x", "text", { ackId: 300001 }), { ackId: 300001, isDuplicated: true })
  assert.equal(hook.events.length, events + 2)
  const e = await fails(a.sendEvent("fail", "x", "text", { ackId: 300002 }))
  assert.equal(e.errorDetail.name, "InternalServerError")
  assert.equal(e.ackId, 300002)
})

await check("invokeEvent", async () => {
  const r = await a.invokeEvent("sum", [1, 2, 3], "json")
  assert.equal(r.data, 6)
  assert.equal(r.dataType, "json")
  for (const [kind, data] of [["text", "hi"], ["binary", bin]]) {
    const r = await a.invokeEvent("echo", data, kind, { invocationId: "own-" + kind })
    assert.equal(r.invocationId, "own-" + kind)
    assert.equal(r.dataType, kind)
    same(r.data, data)
  }
  const all = await Promise.all(Array.from({ length: 20 }, (_, i) => a.invokeEvent("sum", [i, i], "json")))
  assert.deepEqual(all.map((r) => r.data), Array.from({ length: 20 }, (_, i) => 2 * i))
  const e = await fails(a.invokeEvent("fail", 1, "json"))
  assert.ok(e instanceof InvocationError, String(e))
  assert.ok(e.errorDetail?.name && e.errorDetail?.message, JSON.stringify(e.errorDetail))
})

await check("invokeEvent cancelled", async () => {
  const c = await make("carol")
  const stop = new AbortController()
  const pending = c.invokeEvent("slow", 1, "json", { abortSignal: stop.signal })
  await until("the handler has it", () => held.length === 1)
  stop.abort()
  await fails(pending)
  held.pop().writeHead(200, { "content-type": "application/json" }).end("1")
  assert.equal((await c.invokeEvent("sum", [1, 1], "json")).data, 2)
  c.stop()
})

await check("server-message", async () => {
  const from = a.served.length
  await service.sendToConnection(a.id, { n: 1 })
  await service.sendToUser("alice", "two", { contentType: "text/plain" })
  await service.sendToAll(bin)
  await until("three are there", () => a.served.length === from + 3)
  const got = a.served.slice(from).map((m) => m.message)
  assert.deepEqual(got.map((m) => m.dataType), ["json", "text", "binary"])
  assert.deepEqual(got[0].data, { n: 1 })
  same(got[2].data, bin)
})

await check("off", async () => {
  const c = wire(new WebPubSubClient((await service.getClientAccessToken({ userId: "carol", roles: all })).url, { protocol: protocol(), autoReconnect: false }))
  const called = []
  for (const n of names) {
    const f = () => called.push(n)
    c.on(n, f)
    c.off(n, f)
  }
  await c.start()
  await c.joinGroup("off")
  await c.sendToGroup("off", 1, "json")
  await service.sendToUser("carol", 1)
  await until("messages", () => c.messages.length && c.served.length)
  c.stop()
  await until("stopped", () => c.seen.stopped.length)
  assert.deepEqual(called, [])
})

await check("stop, and start again", async () => {
  const c = await make("carol")
  c.stop()
  await until("stopped", () => c.seen.stopped.length === 1 && c.seen.disconnected.length === 1)
  assert.equal(c.seen.disconnected[0].connectionId, c.id)
  await c.start()
  await until("connected", () => c.seen.connected.length === 2)
  assert.notEqual(c.seen.connected[1].connectionId, c.id)
  await c.joinGroup("again")
  c.stop()
  if (!reliable) await until("it is gone", async () => !(await service.userExists("carol")))
})

await check("a credential instead of a URL", async () => {
  const stop = new AbortController()
  let options
  const c = wire(new WebPubSubClient({ getClientAccessUrl: async (o) => {
    options = o
    return (await service.getClientAccessToken({ userId: "dave" })).url
  } }, { protocol: protocol() }))
  await c.start({ abortSignal: stop.signal })
  assert.equal((await until("connected", () => c.seen.connected[0])).userId, "dave")
  assert.equal(options.abortSignal, stop.signal)
  c.stop()
})

await check("a wrong token is refused", async () => {
  const { url } = await service.getClientAccessToken({ userId: "eve" })
  const c = new WebPubSubClient(url.slice(0, -3) + "AAA", { protocol: protocol(), autoReconnect: false })
  assert.match(String((await fails(c.start()))?.message), /401/)
})

await check("pings are answered", async () => {
  const c = await make("carol", { keepAliveIntervalInMs: 50, keepAliveTimeoutInMs: 400, autoReconnect: false })
  const begun = Date.now()
  await until("a second has gone by", () => Date.now() - begun > 1000)
  assert.equal(c.seen.disconnected.length, 0)
  c.stop()
})

await check("closed by the service, with a reason, and reconnected", async () => {
  const c = await make("carol")
  await c.joinGroup("kept")
  await service.closeConnection(c.id, { reason: "maintenance" })
  await until("disconnected", () => c.seen.disconnected.length)
  assert.equal(c.seen.disconnected[0].connectionId, c.id)
  assert.equal(c.seen.disconnected[0].message.message, "Application server closed the connection. Reason: maintenance")
  const again = await until("connected again", () => c.seen.connected[1])
  assert.notEqual(again.connectionId, c.id)
  await until("the group is joined again", async () => {
    await a.sendToGroup("kept", "still", "text")
    return c.messages.some((m) => m.message.data === "still")
  })
  c.stop()
})

await check("autoReconnect false stops", async () => {
  const c = await make("carol", { autoReconnect: false })
  await service.closeConnection(c.id)
  await until("stopped", () => c.seen.stopped.length)
  assert.equal(c.seen.connected.length, 1)
})

await check("autoRejoinGroups false does not join again", async () => {
  const c = await make("carol", { autoRejoinGroups: false })
  await c.joinGroup("left-behind")
  await service.closeConnection(c.id)
  await until("connected again", () => c.seen.connected[1])
  await c.sendEvent("silent", 1, "json")
  assert.equal(await service.groupExists("left-behind"), false)
  c.stop()
})

await check("rejoin-group-failed", async () => {
  const tokens = [all, []]
  const c = wire(new WebPubSubClient({ getClientAccessUrl: async () => (await service.getClientAccessToken({ userId: "carol", roles: tokens.shift() ?? [] })).url },
    { protocol: protocol(), messageRetryOptions: { maxRetries: 1, retryDelayInMs: 10 } }))
  await c.start()
  await until("connected", () => c.seen.connected[0])
  await c.joinGroup("barred")
  await service.closeConnection(c.seen.connected[0].connectionId)
  const e = await until("the event", () => c.seen["rejoin-group-failed"][0])
  assert.equal(e.group, "barred")
  assert.equal(e.error.errorDetail.name, "Forbidden")
  c.stop()
})

if (reliable) {
  await check("recovery after the socket is torn", async () => {
    const c = await make("carol", { via: proxied })
    await c.joinGroup("torn")
    const want = Array.from({ length: 40 }, (_, i) => i)
    for (const n of want.slice(0, 10)) await a.sendToGroup("torn", n, "json")
    proxy.held = true
    proxy.tear()
    for (const n of want.slice(10, 30)) await a.sendToGroup("torn", n, "json")
    assert.equal(await service.connectionExists(c.id), true)
    proxy.held = false
    for (const n of want.slice(30)) await a.sendToGroup("torn", n, "json")
    await until("all are there", () => c.messages.length >= want.length)
    assert.deepEqual(c.messages.map((m) => m.message.data), want)
    assert.deepEqual(c.messages.map((m) => m.message.sequenceId), want.map((n) => n + 1))
    await c.sendToGroup("torn", "mine", "text")
    await until("its own message is there", () => c.messages.some((m) => m.message.data === "mine"))
    assert.equal(c.seen.connected.length, 1)
    assert.equal(c.seen.disconnected.length, 0)
    c.stop()
  })
  await check("recovery again and again", async () => {
    const c = await make("carol", { via: proxied })
    await c.joinGroup("torn2")
    for (let round = 0; round < 3; round++) {
      proxy.tear()
      for (let i = 0; i < 50; i++) await a.sendToGroup("torn2", round * 50 + i, "json")
      await until("all are there", () => c.messages.length >= (round + 1) * 50)
    }
    assert.deepEqual(c.messages.map((m) => m.message.data), Array.from({ length: 150 }, (_, i) => i))
    assert.equal(c.seen.connected.length, 1)
    c.stop()
  })
  await check("an ackId is remembered over a recovery", async () => {
    const c = await make("carol", { via: proxied })
    await c.sendToGroup("room", "once more", "text", { ackId: 400001 })
    proxy.tear()
    const from = proxy.opened
    await until("it is back", () => proxy.opened > from)
    await until("it sends", async () => {
      try {
        return (await c.sendToGroup("room", "once more", "text", { ackId: 400001 })).isDuplicated
      } catch {
        return false
      }
    })
    c.stop()
  })
} else {
  await check("autoReconnect and autoRejoinGroups after the socket is torn", async () => {
    const c = await make("carol", { via: proxied })
    await c.joinGroup("torn")
    proxy.tear()
    const again = await until("connected again", () => c.seen.connected[1])
    assert.notEqual(again.connectionId, c.id)
    assert.equal(c.seen.disconnected.length, 1)
    await until("the group is joined again", async () => {
      await a.sendToGroup("torn", "still", "text")
      return c.messages.length > 0
    })
    await until("the first connection is gone", async () => !(await service.connectionExists(c.id)))
    c.stop()
  })
}

if (a.openGroupStream) {
  const collect = (client, options) => {
    const streams = []
    const subscription = client.onGroupStream(async (stream) => {
      const s = { id: stream.streamId, group: stream.groupName, got: [], done: false }
      streams.push(s)
      try {
        for await (const m of stream) s.got.push(m)
      } catch (e) {
        s.error = e
      }
      s.done = true
    }, options)
    return { streams, subscription }
  }

  await check("stream", async () => {
    const { streams, subscription } = collect(b, { handleFromStart: true, groupNames: ["room"] })
    const w = await a.openGroupStream("room")
    for (let i = 0; i < 50; i++) await w.write("part " + i, "text")
    await w.write({ last: true }, "json")
    await w.write(bin, "binary")
    await w.end()
    const s = await until("it has ended", () => streams[0]?.done && streams[0])
    assert.equal(s.error, undefined)
    assert.equal(s.id, w.streamId)
    assert.equal(s.group, "room")
    assert.equal(s.got.length, 52)
    s.got.forEach((m, i) => assert.equal(m.stream.streamSequenceId, i + 1))
    assert.equal(s.got[0].data, "part 0")
    assert.equal(s.got[0].fromUserId, "alice")
    assert.deepEqual(s.got[50].data, { last: true })
    same(s.got[51].data, bin)
    assert.equal(subscription.isActive, true)
    await subscription.close()
    assert.equal(subscription.isActive, false)
  })

  await check("stream with an id of its own, noEcho, aborted", async () => {
    const others = collect(b)
    const own = collect(a)
    const w = await a.openGroupStream("room", { streamId: "mine", noEcho: true, idleTimeoutInMs: 60000 })
    assert.equal(w.streamId, "mine")
    await w.write("one", "text")
    await w.abort({ message: "gave up", userErrorCode: "E7" })
    const s = await until("it has ended", () => others.streams[0]?.done && others.streams[0])
    assert.equal(s.got.length, 1)
    assert.deepEqual({ ...s.error }, { name: "UserError", message: "gave up", userErrorCode: "E7" })
    const again = await a.openGroupStream("room", { streamId: "mine" }) // free again, and heard by itself
    await again.write("two", "text")
    await again.end()
    await until("it has heard itself", () => own.streams[0]?.done)
    assert.equal(own.streams.length, 1)
    assert.equal(own.streams[0].got[0].data, "two")
    await others.subscription.close()
    await own.subscription.close()
  })

  await check("stream refused", async () => {
    const c = await make("carol", { roles: [] })
    assert.match(JSON.stringify([(await fails(c.openGroupStream("room"))).name]), /Forbidden|Error/)
    c.stop()
    const w = await a.openGroupStream("room", { streamId: "twice" })
    await fails(a.openGroupStream("room", { streamId: "twice" }))
    await w.end()
  })

  await check("stream whose writer is gone", async () => {
    const { streams, subscription } = collect(b)
    const c = await make("carol", { autoReconnect: false })
    const w = await c.openGroupStream("room")
    w.onError(() => {})
    await w.write("one", "text")
    const mine = () => streams.find((s) => s.id === w.streamId) // the end of an older one may come after us
    await until("it is there", () => mine()?.got.length)
    await service.closeConnection(c.id)
    await until("it has ended", () => mine().done)
    assert.equal(mine().error?.name, "Cancelled")
    await subscription.close()
  })

  if (reliable) {
    await check("stream over a recovery", async () => {
      const { streams, subscription } = collect(b)
      const c = await make("carol", { via: proxied })
      const w = await c.openGroupStream("room")
      await w.write(1, "json")
      proxy.tear()
      const second = w.write(2, "json")
      await second
      await w.write(3, "json")
      await w.end()
      const s = await until("it has ended", () => streams.find((s) => s.id === w.streamId && s.done))
      assert.equal(s.error, undefined)
      assert.deepEqual(s.got.map((m) => m.data), [1, 2, 3])
      await subscription.close()
      c.stop()
    })
  }
}

a.stop()
b.stop()
await until("both have stopped", () => a.seen.stopped.length && b.seen.stopped.length)
await check("every method has been called", async () => everything())
process.exit(0)
