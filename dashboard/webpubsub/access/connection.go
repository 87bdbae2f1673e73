package access

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// A ConnectionString is what applications are given to reach a server.
type ConnectionString struct {
	Endpoint *url.URL
	Key      string
}

// ParseConnectionString reads "Endpoint=https://host;AccessKey=key;Version=1.0;" with an optional Port, in any order and case.
func ParseConnectionString(s string) (c ConnectionString, err error) {
	parts := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := parts[name]; !ok || twice {
			return c, fmt.Errorf("connection string: %q is not one name=value", name)
		}
		parts[name] = strings.TrimSpace(value)
	}
	if parts["endpoint"] == "" || parts["accesskey"] == "" {
		return c, errors.New("connection string: it must have Endpoint and AccessKey, as Endpoint=https://host;AccessKey=key;Version=1.0;")
	}
	endpoint := parts["endpoint"]
	if !strings.HasPrefix(strings.ToLower(endpoint), "http") {
		endpoint = "https://" + endpoint
	}
	if c.Endpoint, err = url.Parse(endpoint); err != nil || c.Endpoint.Host == "" {
		return c, errors.New("connection string: Endpoint must be a URL such as https://host")
	}
	if port, ok := parts["port"]; ok {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return c, errors.New("connection string: Port must be between 1 and 65535")
		}
		c.Endpoint.Host = c.Endpoint.Hostname() + ":" + port
	}
	c.Endpoint.Path = strings.TrimSuffix(c.Endpoint.Path, "/")
	c.Key = parts["accesskey"]
	return c, nil
}

// String is the connection string.
func (c ConnectionString) String() string {
	return fmt.Sprintf("Endpoint=%s;AccessKey=%s;Version=1.0;", c.Endpoint, c.Key)
}
