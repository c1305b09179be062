# SPDX-License-Identifier: Apache-2.0
# What goes where on a user's machine: `cmake --install BUILD_DIR --prefix /usr`. The Debian package is
# made of the same rules: `cpack --config BUILD_DIR/CPackConfig.cmake -G DEB`.
include(GNUInstallDirs)

install(TARGETS sectormapd RUNTIME COMPONENT daemon)
install(SCRIPT cmake/install_service.cmake COMPONENT daemon)
install(FILES deploy/prometheus/prometheus.yml deploy/prometheus/sectormap.rules.yml
  DESTINATION ${CMAKE_INSTALL_DATADIR}/sectormap/prometheus COMPONENT daemon)
install(FILES deploy/grafana/sectormap.json
  DESTINATION ${CMAKE_INSTALL_DATADIR}/sectormap/grafana COMPONENT daemon)

install(TARGETS sectormap RUNTIME COMPONENT cli)
install(FILES deploy/bash-completion/sectormap
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT cli)

# As they lie in the tree: their links lead from one to another.
install(FILES README.md CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT doc)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT doc)
install(FILES deploy/debian/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT doc)

set(CPACK_GENERATOR DEB)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR ON)  # or what goes to /etc would go to this machine's
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CONTACT "Sectormap's maintainers <maintainers@sectormap.io>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "device mapper as a network storage service (iSCSI)")
set(CPACK_PACKAGE_DESCRIPTION
  "sectormapd serves device-mapper tables as iSCSI LUNs, in user space: linear,
striped, snapshot, mirror and other targets over files and block devices,
changed while they are in use. sectormap is its command line, with the verbs
and the table text of dmsetup. Prometheus scrapes the daemon.")

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "bash-completion, open-iscsi, prometheus")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${PROJECT_SOURCE_DIR}/deploy/debian/conffiles
  ${PROJECT_SOURCE_DIR}/deploy/debian/postinst
  ${PROJECT_SOURCE_DIR}/deploy/debian/postrm
  ${PROJECT_SOURCE_DIR}/deploy/debian/prerm)
include(CPack)
