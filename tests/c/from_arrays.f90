! As from_arrays.c, in Fortran: for tests/test_c_library.py.
program from_arrays
  use fastgdml
  implicit none
  character(4096) :: input, output
  integer(c_int64_t) :: n(9), n_pairs, n_geo
  integer :: unit
  integer(c_int32_t), allocatable, target :: z(:), perms(:, :)
  real(c_double), allocatable, target :: x(:, :), v(:, :), e(:), r(:, :, :), energy(:), forces(:, :, :), virial(:, :, :)
  real(c_double), allocatable, target :: weights(:)
  real(c_double), target :: lattice(3, 3), other_lattice(3, 3)
  type(fastgdml_arrays) :: arrays
  type(c_ptr) :: model, predict_in

  call get_command_argument(1, input)
  call get_command_argument(2, output)
  open (newunit=unit, file=trim(input), access='stream', status='old', action='read')
  read (unit) n, arrays%sig, arrays%std, arrays%c
  n_pairs = n(1) * (n(1) - 1) / 2
  n_geo = n(7)
  allocate (z(n(1)), perms(n(1), n(3)), x(n_pairs, n(2)), v(n_pairs, n(2)), e(n(2)), r(3, n(1), n_geo))
  allocate (energy(n_geo), forces(3, n(1), n_geo), virial(3, 3, n_geo))
  read (unit) z, perms, x, v
  arrays%n_atoms = n(1)
  arrays%n_train = n(2)
  arrays%n_perms = n(3)
  arrays%image_rule = int(n(6), c_int)
  arrays%atomic_numbers = c_loc(z)
  arrays%perms = c_loc(perms)
  arrays%descriptors = c_loc(x)
  arrays%coefficients = c_loc(v)
  if (n(4) /= 0) then
    read (unit) e
    arrays%energy_coefficients = c_loc(e)
  end if
  if (n(5) /= 0) then
    read (unit) lattice
    arrays%lattice = c_loc(lattice)
  end if
  if (n(9) /= 0) then
    allocate (weights(n_pairs))
    read (unit) weights
    arrays%weights = c_loc(weights)
  end if
  predict_in = c_null_ptr
  if (n(8) /= 0) then
    read (unit) other_lattice
    predict_in = c_loc(other_lattice)
  end if
  read (unit) r
  close (unit)

  if (fastgdml_abi_version() /= FASTGDML_ABI_OF_MODULE) error stop 'this module is not of this library'
  if (fastgdml_model_from_arrays(arrays, model) /= FASTGDML_SUCCESS) error stop 'no model'
  if (fastgdml_predict(model, n_geo, r, predict_in, c_loc(energy), c_loc(forces), c_loc(virial), 0_c_int) &
      /= FASTGDML_SUCCESS) error stop 'no prediction'
  if (n(5) /= 0) then
    if (fastgdml_model_lattice(model, other_lattice) /= FASTGDML_SUCCESS) error stop 'no lattice'
    if (any(abs(other_lattice - lattice) > 0)) error stop 'another lattice'
  end if
  call fastgdml_model_free(model)
  open (newunit=unit, file=trim(output), access='stream', status='replace', action='write')
  write (unit) energy, forces, virial
  close (unit)
end program from_arrays
