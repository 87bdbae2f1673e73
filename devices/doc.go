// Package devices is Millrace's domain: devices, groups, metrics and series, samples, users, roles and the errors that
// every layer shares. It holds plain structs and rules, does no I/O and imports only the standard library.
package devices
