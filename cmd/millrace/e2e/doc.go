// Package e2e holds the tests that run the real program: built once, started as a child process with its own data directory
// and free ports, used over MQTT, HTTP, WebSocket and a real browser, and killed in the middle of it. It has no code but tests.
package e2e
