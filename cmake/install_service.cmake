# SPDX-License-Identifier: Apache-2.0
# Installs the systemd unit and the configuration that it names. A script, as only an installation
# knows its prefix, which the unit has to have in its paths (in the tree it has those of /usr).
set(deploy ${CMAKE_CURRENT_LIST_DIR}/../deploy/systemd)

# As GNUInstallDirs places SYSCONFDIR (FHS 3.0, 3.7 and 3.13).
set(configuration ${CMAKE_INSTALL_PREFIX}/etc/sectormap)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(configuration /etc/sectormap)
elseif(CMAKE_INSTALL_PREFIX MATCHES "^/opt/")
  set(configuration /etc${CMAKE_INSTALL_PREFIX}/sectormap)
endif()

# install_with_paths(FILE DIRECTORY)
function(install_with_paths file directory)
  file(INSTALL ${deploy}/${file} DESTINATION ${directory})
  set(installed $ENV{DESTDIR}${directory}/${file})
  file(READ ${installed} text)
  string(REPLACE /usr/bin/ ${CMAKE_INSTALL_PREFIX}/bin/ with_paths "${text}")
  string(REPLACE /etc/sectormap/ ${configuration}/ with_paths "${with_paths}")
  if(NOT with_paths STREQUAL text)
    file(WRITE ${installed} "${with_paths}")
  endif()
endfunction()

install_with_paths(sectormapd.service ${CMAKE_INSTALL_PREFIX}/lib/systemd/system)
if(EXISTS $ENV{DESTDIR}${configuration}/sectormapd.toml)
  message(STATUS "Kept as it is: $ENV{DESTDIR}${configuration}/sectormapd.toml")
else()
  install_with_paths(sectormapd.toml ${configuration})
endif()
