// What the scripts share. Packages come from NODE_PATH, which only require looks at.
import assert from "node:assert/strict"
import crypto from "node:crypto"
import http from "node:http"
import net from "node:net"
import { createRequire } from "node:module"

export const require = createRequire(import.meta.url)
export { assert }

const env = (name) => {
  if (!process.env[name]) throw new Error("the environment has no " + name)
  return process.env[name]
}
export const connectionString = env("CONNECTION_STRING")
export const hub = env("HUB")
export const endpoint = /endpoint=([^;]*)/i.exec(connectionString)[1].replace(/\/$/, "")
export const key = /accesskey=([^;]*)/i.exec(connectionString)[1]

process.on("unhandledRejection", (e) => {
  console.error("not ok: unhandled rejection:", e)
  process.exit(1)
})

// check runs one test and ends the process when it fails.
export async function check(name, f) {
  let timer
  try {
    await Promise.race([f(), new Promise((_, no) => (timer = setTimeout(() => no(new Error("it takes more than 60 s")), 60000)))])
  } catch (e) {
    console.error("not ok " + name + ": " + (e?.stack ?? JSON.stringify(e)))
    if (e?.errorDetail) console.error("detail:", e.errorDetail)
    if (e?.response?.bodyAsText) console.error("body:", e.response.bodyAsText)
    process.exit(1)
  }
  clearTimeout(timer)
  console.log("ok " + name)
}

// covered watches the public methods of a class, and returns what demands that each of them has been called.
export function covered(Class, ...except) {
  const missing = new Set()
  for (const name of Object.getOwnPropertyNames(Class.prototype)) {
    const { value } = Object.getOwnPropertyDescriptor(Class.prototype, name)
    if (typeof value !== "function" || name === "constructor" || name.startsWith("_") || except.includes(name)) continue
    missing.add(name)
    Class.prototype[name] = function (...args) {
      missing.delete(name)
      return value.apply(this, args)
    }
  }
  assert.ok(missing.size > 0, Class.name + " has no methods")
  return () => assert.deepEqual([...missing], [], "methods of " + Class.name + " that no check calls")
}

// until polls until f gives something true, and returns that.
export async function until(what, f, ms = 15000) {
  for (const end = Date.now() + ms; ; ) {
    const v = await f()
    if (v) return v
    if (Date.now() > end) throw new Error("still not: " + what)
    await new Promise((yes) => setTimeout(yes, 5))
  }
}

// fails demands that a promise is rejected, and returns with what.
export async function fails(promise) {
  try {
    await promise
  } catch (e) {
    return e
  }
  throw new Error("it succeeded, and was to fail")
}

// bytes of an ArrayBuffer or a view of one, as an array.
export const bytes = (b) => [...new Uint8Array(b.buffer ?? b, b.byteOffset ?? 0, b.byteLength)]

export function jwt(claims, header = { alg: "HS256", typ: "JWT" }, secret = key) {
  const part = (v) => Buffer.from(JSON.stringify(v)).toString("base64url")
  const signed = part(header) + "." + part(claims)
  return signed + "." + crypto.createHmac("sha256", secret).update(signed).digest("base64url")
}

// rest calls the data plane as an SDK does: the token's audience is the URL with its query.
export function rest(method, path, { body, type, headers } = {}) {
  const url = endpoint + path
  const token = jwt({ aud: url, exp: Math.floor(Date.now() / 1000) + 300 })
  return fetch(url, { method, body, headers: { authorization: "Bearer " + token, ...(type ? { "content-type": type } : {}), ...headers } })
}

// configure saves the settings of a hub.
export async function configure(name, settings) {
  const res = await fetch(endpoint + "/api/v1/webpubsub/hubs/" + name, {
    method: "PUT",
    headers: { authorization: "Bearer " + env("ADMIN_TOKEN"), "content-type": "application/json" },
    body: JSON.stringify({ hub: name, ...settings }),
  })
  if (!res.ok) throw new Error("settings of " + name + ": " + res.status + " " + (await res.text()))
}

// serviceOf is a client of Azure's of the data plane. Without TLS it must be told that this is meant.
export function serviceOf(name, connection = connectionString) {
  const { WebPubSubServiceClient } = require("@azure/web-pubsub")
  return new WebPubSubServiceClient(connection, name, { allowInsecureConnection: true })
}

export function listen(server) {
  return new Promise((yes) => server.listen(0, "127.0.0.1", () => yes(server.address().port)))
}

// A webhook answers events: by name where there is a function (request, body, response), or with what it got.
export async function webhook(answers = {}) {
  const events = []
  const server = http.createServer((req, res) => {
    if (req.method === "OPTIONS") {
      res.setHeader("WebHook-Allowed-Origin", "*")
      return res.end()
    }
    const parts = []
    req.on("data", (p) => parts.push(p))
    req.on("end", () => {
      const body = Buffer.concat(parts)
      const name = req.headers["ce-eventname"]
      events.push({ name, type: req.headers["ce-type"], headers: req.headers, body })
      if (answers[name]) return answers[name](req, body, res)
      if (req.headers["content-type"]) res.setHeader("content-type", req.headers["content-type"])
      res.end(body)
    })
  })
  const port = await listen(server)
  return { events, url: "http://127.0.0.1:" + port + "/{hub}/{event}" }
}

// A Proxy hands TCP connections on to the server, tears them, and refuses new ones while it holds.
export class Proxy {
  pairs = new Set()
  held = false
  opened = 0
  async start() {
    const target = new URL(endpoint)
    const server = net.createServer((near) => {
      if (this.held) return near.resetAndDestroy()
      this.opened++
      const far = net.connect(Number(target.port), target.hostname)
      const pair = [near, far]
      this.pairs.add(pair)
      for (const [a, b] of [pair, [far, near]]) {
        a.on("error", () => b.destroy())
        a.on("close", () => {
          b.destroy()
          this.pairs.delete(pair)
        })
        a.pipe(b)
      }
    })
    this.endpoint = "http://127.0.0.1:" + (await listen(server))
    this.connectionString = `Endpoint=${this.endpoint};AccessKey=${key};Version=1.0;`
    return this
  }
  tear() {
    for (const pair of this.pairs) for (const s of pair) s.resetAndDestroy()
  }
}

// A Raw is a WebSocket client without a library of ours or Azure's, which keeps what it is sent.
export class Raw {
  frames = []
  taken = 0
  static async connect(url, protocol = "json.webpubsub.azure.v1", options = {}) {
    const WebSocket = require("ws")
    const raw = new Raw()
    raw.ws = protocol ? new WebSocket(url, protocol, options) : new WebSocket(url, options)
    raw.ws.on("message", (data, binary) => raw.frames.push(binary ? data : data.toString()))
    raw.closed = new Promise((yes) => raw.ws.on("close", (code, reason) => yes({ code, reason: reason.toString() })))
    await new Promise((yes, no) => {
      raw.ws.on("open", yes)
      raw.ws.on("error", no)
      raw.ws.on("unexpected-response", (_, res) => {
        let body = ""
        res.on("data", (p) => (body += p))
        res.on("end", () => no(Object.assign(new Error("handshake: " + res.statusCode), { status: res.statusCode, body })))
      })
    })
    if (protocol?.includes("webpubsub.azure")) raw.id = JSON.parse(await raw.next()).connectionId
    return raw
  }
  // next is the next frame: text as a string, binary as a Buffer.
  async next() {
    await until("a frame comes", () => this.frames.length > this.taken)
    return this.frames[this.taken++]
  }
  async json() {
    return JSON.parse(await this.next())
  }
  send(frame) {
    this.ws.send(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame))
  }
}
