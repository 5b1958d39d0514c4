//go:build tools

// Package vulcand names the program to build, so that go.mod and go.sum know what it takes:
// `go install` of a version fails, since the module's list of versions is not served.
package vulcand

import _ "github.com/vulcand/vulcand"
