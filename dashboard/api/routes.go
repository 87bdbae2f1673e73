package api

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/devices"
)

// A route is one entry of the router and of the OpenAPI document. Those without a handler are served elsewhere and documented
// here.
type route struct {
	method, path string // path as in OpenAPI; {group} may hold slashes
	id, tag      string
	summary      string
	query        string // names of parameters, see parameters; what stands before a dot only tells those of one name apart
	body, answer string // names of schemas; "" none, "text" plain text, "csv"
	status       int
	handler      func(*API, *fiber.Ctx) error
}

var routes = []route{
	{"GET", "/api/v1/me", "getMe", "me", "Who the caller is, with its rights", "", "", "Me", 200, (*API).getMe},
	{"POST", "/api/v1/me/password", "changePassword", "me", "Change one's own password; other sessions end", "", "PasswordChange", "", 204, (*API).changePassword},

	{"GET", "/api/v1/devices", "listDevices", "devices", "Devices one may see", "group state type q after limit", "", "DeviceList", 200, (*API).listDevices},
	{"POST", "/api/v1/devices", "createDevice", "devices", "Make a device; its token is shown this once", "", "DeviceCreate", "DeviceCreated", 201, (*API).createDevice},
	{"GET", "/api/v1/devices.csv", "exportDevices", "devices", "Devices as CSV", "group state type q", "", "csv", 200, (*API).exportDevices},
	{"POST", "/api/v1/devices.csv", "importDevices", "devices", "Make and change devices by CSV, all or, when a row is at fault (422), nothing", "dryRun", "csv", "ImportReport", 200, (*API).importDevices},
	{"GET", "/api/v1/devices/{id}", "getDevice", "devices", "A device", "", "", "Device", 200, (*API).getDevice},
	{"PATCH", "/api/v1/devices/{id}", "updateDevice", "devices", "Change what is given of a device", "", "DevicePatch", "Device", 200, (*API).patchDevice},
	{"DELETE", "/api/v1/devices/{id}", "deleteDevice", "devices", "Delete a device and what is recorded of it; its connections end", "", "", "", 204, (*API).deleteDevice},
	{"GET", "/api/v1/devices/{id}/credentials", "listCredentials", "devices", "Credentials of a device, without their secrets", "", "", "CredentialList", 200, (*API).listCredentials},
	{"POST", "/api/v1/devices/{id}/credentials", "createCredential", "devices", "Make a credential; its token is shown this once", "", "CredentialCreate?", "CredentialCreated", 201, (*API).createCredential},
	{"DELETE", "/api/v1/devices/{id}/credentials/{credential}", "deleteCredential", "devices", "Revoke a credential; its connections end", "", "", "", 204, (*API).deleteCredential},
	{"GET", "/api/v1/devices/{id}/rejects", "listDeviceRejects", "intake", "Newest payloads of a device that were not taken, and why", "limit", "", "RejectList", 200, (*API).deviceRejects},
	{"PATCH", "/api/v1/devices/{id}/series/{metric}", "updateSeries", "series", "Change settings of one series", "", "SeriesPatch", "Series", 200, (*API).patchSeries},

	{"GET", "/api/v1/groups", "listGroups", "groups", "Groups one may view, by path; with stats=1 how they are doing", "stats", "", "GroupList", 200, (*API).listGroups},
	{"POST", "/api/v1/groups", "createGroup", "groups", "Make a group, and those missing above it", "", "GroupCreate", "Group", 201, (*API).createGroup},
	{"GET", "/api/v1/groups/{group}/stream", "streamGroup", "live", "Live JSON frames as server-sent events, see docs/protocol.md", "series pace detail format credit from", "", "events", 200, nil},
	{"GET", "/api/v1/groups/{group}", "getGroup", "groups", "A group", "stats", "", "Group", 200, (*API).getGroup},
	{"PATCH", "/api/v1/groups/{group}", "updateGroup", "groups", "Change what is given of a group", "", "GroupPatch", "Group", 200, (*API).patchGroup},
	{"DELETE", "/api/v1/groups/{group}", "deleteGroup", "groups", "Delete a group and all below it, with their bindings; devices stay unless devices=1", "devices", "", "", 204, (*API).deleteGroup},

	{"GET", "/api/v1/series", "listSeries", "series", "Series one may see", "group device metric q after limit", "", "SeriesList", 200, (*API).listSeries},
	{"GET", "/api/v1/history", "getHistory", "series", "What is recorded of some series, in buckets or as samples; also as CSV", "device metric history.series group history.from history.to buckets shape history.format", "", "History", 200, (*API).history},
	{"GET", "/api/v1/metrics", "listMetrics", "series", "Metrics, the defaults of series of one name", "", "", "MetricList", 200, (*API).listMetrics},
	{"PATCH", "/api/v1/metrics/{metric}", "updateMetric", "series", "Change what is given of a metric (site admins)", "", "MetricPatch", "Metric", 200, (*API).patchMetric},

	{"GET", "/api/v1/users", "listUsers", "users", "Users", "after limit", "", "UserList", 200, (*API).listUsers},
	{"POST", "/api/v1/users", "createUser", "users", "Make a user", "", "UserCreate", "User", 201, (*API).createUser},
	{"GET", "/api/v1/users/{id}", "getUser", "users", "A user", "", "", "User", 200, (*API).getUser},
	{"PATCH", "/api/v1/users/{id}", "updateUser", "users", "Change what is given of a user", "", "UserPatch", "User", 200, (*API).patchUser},
	{"DELETE", "/api/v1/users/{id}", "deleteUser", "users", "Delete a user; sessions end", "", "", "", 204, (*API).deleteUser},

	{"GET", "/api/v1/bindings", "listBindings", "users", "Who holds which role where", "group user token", "", "BindingList", 200, (*API).listBindings},
	{"POST", "/api/v1/bindings", "createBinding", "users", "Give a user (by id or e-mail) or token a role in a group and below", "", "BindingCreate", "Binding", 201, (*API).createBinding},
	{"DELETE", "/api/v1/bindings/{id}", "deleteBinding", "users", "Take a role away; open connections feel it within a second", "", "", "", 204, (*API).deleteBinding},

	{"GET", "/api/v1/tokens", "listTokens", "users", "API tokens, without their secrets", "after limit", "", "TokenList", 200, (*API).listTokens},
	{"POST", "/api/v1/tokens", "createToken", "users", "Make an API token; its secret is shown this once", "", "TokenCreate", "TokenCreated", 201, (*API).createToken},
	{"DELETE", "/api/v1/tokens/{id}", "deleteToken", "users", "Revoke an API token; open connections feel it within a second", "", "", "", 204, (*API).deleteToken},

	{"GET", "/api/v1/audit", "listAudit", "audit", "Who changed what, newest first", "actor action object after limit", "", "AuditList", 200, (*API).listAudit},
	{"GET", "/api/v1/rejects", "listRejects", "intake", "Newest payloads that were not taken, of the devices one is admin of", "limit", "", "RejectList", 200, (*API).allRejects},
	{"GET", "/api/v1/system", "getSystem", "system", "How the server is doing (site admins)", "", "", "Object", 200, (*API).systemInfo},

	{"POST", "/api/v1/devices/{id}/telemetry", "sendDeviceTelemetry", "intake", "Samples of one device; 200 means stored", "ack", "Telemetry", "Accepted", 200, nil},
	{"POST", "/api/v1/telemetry", "sendTelemetry", "intake", "Samples of many devices, JSON array or NDJSON; 200 means stored", "ack", "Telemetry", "Accepted", 200, nil},
	{"GET", "/live", "live", "live", "WebSocket of the live protocol, see docs/protocol.md", "", "", "", 101, nil},
	{"GET", "/healthz", "healthz", "operations", "Whether the process answers", "", "", "text", 200, nil},
	{"GET", "/readyz", "readyz", "operations", "Whether every part works; 503 when not", "", "", "Readiness", 200, nil},
	{"GET", "/metrics", "metrics", "operations", "Prometheus metrics", "", "", "text", 200, nil},
	{"GET", "/openapi.json", "openapi", "operations", "This document", "", "", "Object", 200, nil},
}

func (rt *route) fiberPath() string {
	p := strings.ReplaceAll(rt.path, "{group}", "+")
	return strings.NewReplacer("{", ":", "}", "").Replace(p)
}

// checkQuery refuses parameters that the route does not have, so that a misspelt filter is no missing filter.
func (rt *route) checkQuery(c *fiber.Ctx) (err error) {
	known := strings.Fields(rt.query)
	for i := range known {
		known[i] = parameterName(known[i])
	}
	c.Context().QueryArgs().VisitAll(func(key, _ []byte) {
		if k := string(key); err == nil && k != "access_token" && !slices.Contains(known, k) {
			err = devices.Invalid(k, "there is no such parameter here")
		}
	})
	return err
}

// parameterName is a parameter's name as it is in addresses.
func parameterName(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Documented returns method and path, with {name} for parameters, of every route in the OpenAPI document.
func Documented() [][2]string {
	out := make([][2]string, 0, len(routes))
	for _, rt := range routes {
		out = append(out, [2]string{rt.method, rt.path})
	}
	return out
}
