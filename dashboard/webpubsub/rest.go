package webpubsub

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/webpubsub/filter"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// apiVersions are those that the REST API has had; all may use every operation.
var apiVersions = []string{"2021-10-01", "2022-11-01", "2023-07-01", "2024-01-01", "2024-12-01"}

// restError is an error of the REST API; its JSON is the body.
type restError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Target  string `json:"target"`
	Details any    `json:"details"`
	Inner   any    `json:"innererror"`

	status int
}

func (e *restError) Error() string { return e.Message }

// invalid is the error for input that can't be.
func invalid(target, format string, args ...any) error {
	return &restError{Code: "Error.BadRequest", Message: fmt.Sprintf(format, args...), Target: target, status: http.StatusBadRequest}
}

func notFound(level, what, name string) error {
	return &restError{Code: level + "." + what + ".NotExisted", Message: fmt.Sprintf("%s `%s` is not found.", what, name), Target: what, status: http.StatusNotFound}
}

const badGroup = "Invalid group name. Valid group name should be in between 1 and 1024 characters long."

// health answers without a token.
func (e *Endpoint) health(c *fiber.Ctx) error {
	if m := c.Method(); m != fiber.MethodHead && m != fiber.MethodGet {
		return fiber.ErrMethodNotAllowed
	}
	return c.SendStatus(http.StatusOK)
}

// A call is one request of the REST API.
type call struct {
	e     *Endpoint
	c     *fiber.Ctx
	hub   *hub.Hub
	query url.Values
	body  func() []byte
	path  []string // segments after the hub, unescaped
}

// rest answers a request to a hub.
func (e *Endpoint) rest(c *fiber.Ctx) error {
	e.counts.requests.Add(1)
	raw := string(c.Request().URI().PathOriginal())
	base := c.BaseURL()
	token, _ := bearer(c.Get(fiber.HeaderAuthorization))
	if err := e.tokens.REST(token, base, raw); err != nil {
		e.counts.badRequests.Add(1)
		e.log.Debug("Web PubSub request refused", "path", raw, "why", err)
		c.Set(fiber.HeaderWWWAuthenticate, "Bearer")
		return c.SendStatus(http.StatusUnauthorized)
	}
	return e.answer(c, raw)
}

// answer does what an authorised request asks for.
func (e *Endpoint) answer(c *fiber.Ctx, raw string) error {
	c.Set("api-supported-versions", strings.Join(apiVersions, ", "))
	err := e.route(c, raw)
	var failed *restError
	if err == nil || !errors.As(err, &failed) {
		return err
	}
	e.counts.badRequests.Add(1)
	c.Set("x-ms-error-code", failed.Code)
	c.Status(failed.status)
	if c.Method() == fiber.MethodHead {
		return nil
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
	if failed.status == http.StatusUnsupportedMediaType {
		return nil
	}
	body, err := json.Marshal(failed)
	if err != nil {
		return err
	}
	return c.Send(body)
}

// route finds the operation. Groups and users may have any character, so that segments are unescaped after they are told apart.
func (e *Endpoint) route(c *fiber.Ctx, raw string) error {
	segments := strings.Split(strings.TrimPrefix(raw, "/api/hubs/"), "/")
	for i, s := range segments {
		u, err := url.PathUnescape(s)
		if err != nil {
			return invalid("Request", "The path is not escaped as it should be.")
		}
		segments[i] = u
	}
	k := &call{e: e, c: c, query: queryOf(c), body: func() []byte { return slices.Clone(c.Body()) }, path: segments[1:]}
	if v := k.query["api-version"]; len(v) > 1 || len(v) == 1 && !slices.Contains(apiVersions, v[0]) {
		return invalid("api-version", "The API version is not supported; there are %s.", strings.Join(apiVersions, ", "))
	}
	if !hubs.ValidName(segments[0]) {
		return invalid("hub", "Invalid hub name.")
	}
	k.hub = e.hubs.Hub(segments[0])
	p := k.path
	verb := c.Method() + " " + shape(p)
	op, ok := operations[verb]
	if !ok {
		return &restError{Code: "Error.NotFound", Message: "There is no such operation.", Target: "Request", status: http.StatusNotFound}
	}
	return op(k)
}

// shape is a path with names in place of what is up to the caller: "users/*/groups/*".
func shape(p []string) string {
	s := slices.Clone(p)
	for i := 1; i < len(s); i += 2 {
		if i < len(s)-1 || !strings.HasPrefix(s[i], ":") {
			s[i] = "*"
		}
	}
	return strings.Join(s, "/")
}

// operations by method and shape of the path.
var operations map[string]func(*call) error

func init() {
	operations = map[string]func(*call) error{
		"POST :send":             (*call).sendAll,
		"POST :generateToken":    (*call).generateToken,
		"POST :closeConnections": (*call).closeAll,
		"POST :addToGroups":      func(k *call) error { return k.changeGroups(true) },
		"POST :removeFromGroups": func(k *call) error { return k.changeGroups(false) },

		"HEAD connections/*":          (*call).headConnection,
		"DELETE connections/*":        (*call).closeConnection,
		"POST connections/*/:send":    (*call).sendConnection,
		"DELETE connections/*/groups": (*call).leaveAll,

		"HEAD groups/*":                    (*call).headGroup,
		"POST groups/*/:send":              (*call).sendGroup,
		"POST groups/*/:closeConnections":  (*call).closeGroup,
		"GET groups/*/connections":         (*call).members,
		"PUT groups/*/connections/*":       (*call).addToGroup,
		"DELETE groups/*/connections/*":    (*call).removeFromGroup,
		"PUT permissions/*/connections/*":  (*call).grant,
		"HEAD permissions/*/connections/*": (*call).checkPermission,

		"DELETE permissions/*/connections/*": (*call).revoke,

		"HEAD users/*":                   (*call).headUser,
		"POST users/*/:send":             (*call).sendUser,
		"POST users/*/:closeConnections": (*call).closeUser,
		"PUT users/*/groups/*":           (*call).addUser,
		"DELETE users/*/groups/*":        (*call).removeUser,
		"DELETE users/*/groups":          (*call).removeUserFromAll,
	}
}

// done answers without a body.
func (k *call) done(status int) error {
	k.c.Status(status)
	k.c.Response().ResetBody()
	return nil
}

// group is the group of a path, at a place.
func (k *call) group(i int) (string, error) {
	if !protocol.ValidGroup(k.path[i]) {
		return "", invalid("group", badGroup)
	}
	return k.path[i], nil
}

// message reads the body of a request to send.
func (k *call) message(group string) (*hub.Message, error) {
	m := &hub.Message{Group: group}
	kind, _, err := mime.ParseMediaType(k.c.Get(fiber.HeaderContentType))
	if err != nil {
		kind = ""
	}
	switch kind {
	case "application/json":
		m.Data.Kind = hub.JSON
	case "text/plain":
		m.Data.Kind = hub.Text
	case "application/octet-stream":
		m.Data.Kind = hub.Binary
	default:
		return nil, &restError{Code: "Error.UnsupportedMediaType", Message: "The content type can be application/json, text/plain or application/octet-stream.", Target: "Request", status: http.StatusUnsupportedMediaType}
	}
	m.Data.Bytes = k.body()
	if m.Data.Kind == hub.JSON && !json.Valid(m.Data.Bytes) {
		return nil, invalid("Request", "The request body is not a valid JSON.")
	}
	if ttl, ok := k.query["messageTtlSeconds"]; ok {
		n, err := strconv.Atoi(ttl[len(ttl)-1])
		if err != nil || n < 0 || n > 300 {
			return nil, invalid("messageTtlSeconds", "messageTtlSeconds must be between 0 and 300.")
		}
		m.TTL = time.Duration(n) * time.Second
	}
	const prefix = "X-Webpubsub-Metadata-"
	k.c.Request().Header.VisitAll(func(name, value []byte) {
		if n := string(name); len(n) > len(prefix) && strings.EqualFold(n[:len(prefix)], prefix) {
			if m.Metadata == nil {
				m.Metadata = map[string]string{}
			}
			m.Metadata[strings.ToLower(n[len(prefix):])] = string(value)
		}
	})
	if err := protocol.ValidMetadata(m.Metadata); err != nil {
		return nil, invalid("metadata", "%v", err)
	}
	return m, nil
}

// match reads the filter of a query.
func (k *call) match() (hub.Match, error) {
	f, ok := k.query["filter"]
	if !ok {
		return nil, nil
	}
	return matching(f[len(f)-1], "filter")
}

// matching makes a filter choose connections.
func matching(text, target string) (hub.Match, error) {
	if text == "" {
		return nil, nil
	}
	f, err := filter.Parse(text)
	if err != nil {
		return nil, invalid(target, "%v", err)
	}
	return func(c *hub.Conn) bool {
		return f.Match(filter.Subject{ConnectionID: c.ID(), User: c.User(), HasUser: c.User() != "", Protocol: c.Protocol(), Groups: c.Groups, In: c.In})
	}, nil
}

func (k *call) sendAll() error {
	m, err := k.message("")
	if err != nil {
		return err
	}
	match, err := k.match()
	if err != nil {
		return err
	}
	k.hub.SendAll(m, k.query["excluded"], match)
	return k.done(http.StatusAccepted)
}

func (k *call) sendGroup() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	m, err := k.message(group)
	if err != nil {
		return err
	}
	match, err := k.match()
	if err != nil {
		return err
	}
	k.hub.SendGroup(m, k.query["excluded"], match)
	return k.done(http.StatusAccepted)
}

func (k *call) sendUser() error {
	m, err := k.message("")
	if err != nil {
		return err
	}
	match, err := k.match()
	if err != nil {
		return err
	}
	k.hub.SendUser(k.path[1], m, match)
	return k.done(http.StatusAccepted)
}

func (k *call) sendConnection() error {
	m, err := k.message("")
	if err != nil {
		return err
	}
	k.hub.SendConn(k.path[1], m)
	return k.done(http.StatusAccepted)
}

func (k *call) closeAll() error {
	k.hub.CloseAll(k.query["excluded"], k.query.Get("reason"))
	return k.done(http.StatusNoContent)
}

func (k *call) closeGroup() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	k.hub.CloseGroup(group, k.query["excluded"], k.query.Get("reason"))
	return k.done(http.StatusNoContent)
}

func (k *call) closeUser() error {
	k.hub.CloseUser(k.path[1], k.query["excluded"], k.query.Get("reason"))
	return k.done(http.StatusNoContent)
}

func (k *call) closeConnection() error {
	k.hub.CloseConn(k.path[1], k.query.Get("reason"))
	return k.done(http.StatusNoContent)
}

func (k *call) headConnection() error {
	if _, ok := k.hub.Conn(k.path[1]); !ok {
		return notFound("Warning", "Connection", k.path[1])
	}
	return k.done(http.StatusOK)
}

func (k *call) headGroup() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	if !k.hub.GroupExists(group) {
		return notFound("Warning", "Group", group)
	}
	return k.done(http.StatusOK)
}

func (k *call) headUser() error {
	if !k.hub.UserExists(k.path[1]) {
		return notFound("Warning", "User", k.path[1])
	}
	return k.done(http.StatusOK)
}

func (k *call) leaveAll() error {
	k.hub.RemoveFromAll(k.path[1])
	return k.done(http.StatusNoContent)
}

func (k *call) addToGroup() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	if !k.hub.AddToGroup(k.path[3], group) {
		return notFound("Error", "Connection", k.path[3])
	}
	return k.done(http.StatusOK)
}

func (k *call) removeFromGroup() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	k.hub.RemoveFromGroup(k.path[3], group)
	return k.done(http.StatusNoContent)
}

func (k *call) addUser() error {
	group, err := k.group(3)
	if err != nil {
		return err
	}
	if !k.hub.AddUser(k.path[1], group) {
		return notFound("Warning", "User", k.path[1])
	}
	return k.done(http.StatusOK)
}

func (k *call) removeUser() error {
	group, err := k.group(3)
	if err != nil {
		return err
	}
	k.hub.RemoveUser(k.path[1], group)
	return k.done(http.StatusNoContent)
}

func (k *call) removeUserFromAll() error {
	k.hub.RemoveUserFromAll(k.path[1])
	return k.done(http.StatusNoContent)
}
