package api

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// schemas of bodies, by the names that routes use.
//
//go:embed schemas.json
var schemas json.RawMessage

// parameters of queries: what they mean and their schema.
var parameters = map[string][2]string{
	"after":          {"Cursor: next of the page before", `{"type":"string"}`},
	"limit":          {"Most items of a page; 100 when absent", `{"type":"integer","minimum":1,"maximum":1000}`},
	"group":          {"Path of a group: in it or below", `{"type":"string"}`},
	"state":          {"State of a device", `{"type":"string","enum":["pending","active","disabled"]}`},
	"type":           {"Type of a device, exactly", `{"type":"string"}`},
	"q":              {"Part of an id or label", `{"type":"string"}`},
	"dryRun":         {"1: say what would be done and do nothing", `{"type":"boolean"}`},
	"stats":          {"1: with live figures", `{"type":"boolean"}`},
	"devices":        {"1: also delete the devices that are in no other group, with what is recorded of them", `{"type":"boolean"}`},
	"device":         {"Id of a device", `{"type":"string"}`},
	"metric":         {"Name of a metric, exactly", `{"type":"string"}`},
	"user":           {"Id of a user", `{"type":"string"}`},
	"token":          {"Id of an API token", `{"type":"string"}`},
	"actor":          {"Name of who did it, exactly", `{"type":"string"}`},
	"action":         {"Beginning of the action, such as device.", `{"type":"string"}`},
	"object":         {"What was changed, exactly", `{"type":"string"}`},
	"ack":            {"none: answer before the samples are stored", `{"type":"string","enum":["none"]}`},
	"series":         {"Patterns device/metric, each part may be *; may be repeated", `{"type":"array","items":{"type":"string"}}`},
	"pace":           {"Most frames a second", `{"type":"number"}`},
	"detail":         {"How much of the samples between two frames", `{"type":"string","enum":["last","envelope","full"]}`},
	"format":         {"Only json", `{"type":"string","enum":["json"]}`},
	"credit":         {"Only auto", `{"type":"string","enum":["auto"]}`},
	"history.series": {"A series as device/metric; may be repeated", `{"type":"array","items":{"type":"string"}}`},
	"history.from":   {"First time: RFC 3339, or Unix s, ms, µs or ns told apart by size; 15 minutes before to when absent", `{"type":"string"}`},
	"history.to":     {"End, no longer in it; now when absent", `{"type":"string"}`},
	"history.format": {"csv: as Accept: text/csv", `{"type":"string","enum":["json","csv"]}`},
	"buckets":        {"Most buckets of a series, 1000 when absent; 0: the samples themselves", `{"type":"integer","minimum":0,"maximum":10000}`},
	"shape":          {"columns: a list for each figure in place of an object for each point", `{"type":"string","enum":["points","columns"]}`},
	"from":           {"epoch:seq to resume after; Last-Event-ID goes before it", `{"type":"string"}`},
}

type (
	object = map[string]any
	array  = []any
)

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

// OpenAPI returns the document as JSON (OpenAPI 3.0.3).
var OpenAPI = sync.OnceValues(func() ([]byte, error) {
	paths := object{}
	for _, rt := range routes {
		ops, _ := paths[rt.path].(object)
		if ops == nil {
			ops = object{}
			paths[rt.path] = ops
		}
		ops[strings.ToLower(rt.method)] = rt.operation()
	}
	return json.Marshal(object{
		"openapi": "3.0.3",
		"info": object{
			"title": "Millrace", "version": "1", "license": object{"name": "Apache-2.0"},
			"description": "Live telemetry. Errors are RFC 9457 problems. No credential: 401; no right: 403; what one may not see: 404. " +
				"With the session cookie, requests that change something need its CSRF token in X-CSRF-Token. The live protocol is in docs/protocol.md.",
		},
		"paths": paths,
		"components": object{
			"schemas": schemas,
			"securitySchemes": object{
				"token":   object{"type": "http", "scheme": "bearer", "description": "API token (mrt_…); for telemetry of one device also its own (mrd_…)"},
				"query":   object{"type": "apiKey", "in": "query", "name": "access_token"},
				"session": object{"type": "apiKey", "in": "cookie", "name": "millrace_session"},
			},
			"responses": object{"Problem": object{
				"description": "What went wrong",
				"content":     object{"application/problem+json": object{"schema": schema("Problem")}},
			}},
		},
		"security": array{object{"token": array{}}, object{"query": array{}}, object{"session": array{}}},
	})
})

func schema(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func (rt *route) operation() object {
	params := array{}
	for _, m := range pathParameter.FindAllStringSubmatch(rt.path, -1) {
		what := "Name in the path"
		if m[1] == "group" {
			what = "Path of a group, with slashes or %2F"
		}
		params = append(params, object{"name": m[1], "in": "path", "required": true, "description": what, "schema": object{"type": "string"}})
	}
	for name := range strings.FieldsSeq(rt.query) {
		p := parameters[name]
		params = append(params, object{"name": parameterName(name), "in": "query", "description": p[0], "schema": json.RawMessage(p[1])})
	}
	ok := object{"description": rt.summary}
	if content := content(rt.answer); content != nil {
		ok["content"] = content
	}
	answers := object{strconv.Itoa(rt.status): ok, "default": object{"$ref": "#/components/responses/Problem"}}
	if rt.id == "importDevices" {
		answers["422"] = object{"description": "Rows at fault; nothing was written", "content": content(rt.answer)}
	}
	if rt.id == "readyz" {
		answers["503"] = ok
	}
	op := object{"operationId": rt.id, "tags": array{rt.tag}, "summary": rt.summary, "parameters": params, "responses": answers}
	if name, optional := strings.CutSuffix(rt.body, "?"); name != "" {
		op["requestBody"] = object{"required": !optional, "content": content(name)}
	}
	if rt.tag == "operations" && rt.id != "metrics" {
		op["security"] = array{}
	}
	return op
}

func content(name string) object {
	switch name {
	case "":
		return nil
	case "text":
		return object{"text/plain": object{"schema": object{"type": "string"}}}
	case "csv":
		return object{"text/csv": object{"schema": object{"type": "string"}}}
	case "events":
		return object{"text/event-stream": object{"schema": object{"type": "string"}}}
	}
	return object{"application/json": object{"schema": schema(name)}}
}
